"""The parts of compare.py.

runs       experiments, their tests and the settings of each test
folders    folders of SR images that other software made
truth      the HR and LR images of a test set
scoring    metrics of images: PSNR and SSIM of this program, others of pyiqa
common     which images tests share: whether their means can be compared
gains      differences between rows, and between groups of seeds
tables     Markdown, CSV and LaTeX
cost       parameters and multiply-adds
boxes      where to crop
figures    crops side by side, as papers print them
html       the page, from the files in page/
"""
