"""A build backend that refuses: this repository is a program, not a package to install.

Without it, `pip install .` would put modules named data, model and main into site-packages.
"""

MESSAGE = (
    "This repository is a program, not a Python package: nothing was installed. Install "
    "its packages with `pip install -r requirements.txt` and run `python src/main.py`. To use its "
    "networks from Python, see docs/python.md (torch.hub.load)."
)


def _refuse(*args, **kwargs):
    raise SystemExit(MESSAGE)


# the hooks of PEP 517 and PEP 660 that a frontend may call first
get_requires_for_build_wheel = get_requires_for_build_sdist = _refuse
get_requires_for_build_editable = _refuse
build_wheel = build_sdist = build_editable = _refuse
