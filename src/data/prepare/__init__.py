"""Downloads, archives and LR images, for scripts/prepare_data.py alone."""
