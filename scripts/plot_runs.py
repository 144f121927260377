#!/usr/bin/env python3
"""Draw quantities of several experiments over their epochs.

scripts/plot_runs.py OUT.png NAME... [--keys L1 "CL-patchD s_pos"] [--labels TEXT...]
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

from checkpoint.metrics import tests_of_training
from checkpoint.plot import plot_panels
from comparison.runs import read_experiment
from runtime.files import UserError

KEYS = ("L1", "CL-patchD embedding", "CL-patchD s_pos", "CL-patchD s_neg", "contrast", "PSNR")


def curves(folder):
    """Return {key: {epoch: value}} of an experiment.

    Keys are its loss terms, "contrast" (s_neg - s_pos) and "PSNR" (mean over the test sets).
    """
    found, psnr = {}, {}
    lines = read_experiment(folder)
    for line in lines:
        for key, value in line.get("loss", {}).items():
            found.setdefault(key, {})[line["epoch"]] = value
    for tests in tests_of_training(lines).values():
        for epoch, line in tests.items():
            if line["psnr"] is not None:
                psnr.setdefault(epoch, []).append(line["psnr"])
    for key in [key for key in found if key.endswith(" s_pos")]:
        negative = found[key.replace("s_pos", "s_neg")]
        found["contrast"] = {epoch: negative[epoch] - value for epoch, value in found[key].items()}
    found["PSNR"] = {epoch: sum(values) / len(values) for epoch, values in psnr.items()}
    return found


def build_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("experiments", nargs="+")
    parser.add_argument("--dir_experiment", type=Path, default=ROOT / "experiment")
    parser.add_argument("--keys", nargs="+", default=KEYS)
    parser.add_argument("--labels", nargs="+", help="names of the experiments in the legend")
    return parser


def main(argv=None):
    """Draw; return the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    labels = args.labels or args.experiments
    if len(labels) != len(args.experiments):
        parser.error(f"--labels: {len(labels)} labels for {len(args.experiments)} experiments")
    try:
        runs = {
            label: curves(args.dir_experiment / name)
            for label, name in zip(labels, args.experiments, strict=True)
        }
        panels = {
            key: {label: r[key] for label, r in runs.items() if key in r} for key in args.keys
        }
        panels = {key: panel for key, panel in panels.items() if panel}
        if not panels:
            raise UserError(f"none of the experiments has any of --keys {' '.join(args.keys)}")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        plot_panels(args.out.parent, args.out.stem, panels, "", (args.out.suffix[1:],))
    except (UserError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"drawn: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
