"""The process: ranks, precision, signals, memory, atomic files, errors. It knows no image."""
