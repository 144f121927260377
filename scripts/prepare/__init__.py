"""Downloads, archives and LR images, only for scripts/prepare_data.py."""
