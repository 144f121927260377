"""The process: ranks, precision, signals, memory, atomic files, errors.

Nothing here knows what an image is.
"""
