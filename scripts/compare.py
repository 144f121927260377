#!/usr/bin/env python3
"""Compare experiments: tables, gains with standard errors, curves, figures, a page for the browser.

    scripts/compare.py bicubic EDSR EDSR-PCL --diff --best --csv results.csv --cost
    scripts/compare.py --group "L1=L1_s1,L1_s2,L1_s3" "PCL=PCL_s1,PCL_s2,PCL_s3" --format latex
    scripts/compare.py EDSR --images SwinIR=folder --data_test Set5 --scale 4 --metrics psnr,lpips
    scripts/compare.py EDSR EDSR-PCL --figure set5.png --data_test Set5 --image baby bird
    scripts/compare.py bicubic EDSR EDSR-PCL --html report.html --curves curves.pdf --gains g.pdf
Figures and pages are made from tests with --save_results --save_gt. See docs/compare.md.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

from comparison import exports, figures, pictures
from comparison.gains import groups_of, parse_groups
from comparison.images import FolderRow, Truth, infer_scale, parse_folder
from comparison.runs import Run, name_apart, rows_of
from comparison.scoring import Scorer, other_pixels
from comparison.tables import gain_table, score_table
from flag_checks import unknown_flags
from image_quality import load_metrics, parse_metrics
from runtime.files import UserError, atomic_path, bullet_list, print_error


def build_parser():
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument_group("what is compared").add_argument
    parser.add_argument("experiments", nargs="*", help="names under experiment/")
    add("--labels", nargs="+", help="names of the experiments in tables and figures")
    add("--group", nargs="+", metavar="NAME=A,B,C", help="experiments that differ in their seed")
    add("--images", nargs="+", metavar="NAME=FOLDER", help="SR images of other software")
    add("--dir_experiment", type=Path, default=ROOT / "experiment")
    add("--dir_data", type=Path, default=ROOT / "datasets", help="data sets, for HR images")
    add("--dir_demo", type=Path, help="LR pictures of --images without ground truth")
    add("--data_test", help="test set of --images, --figure and --html")
    add("--scale", type=int, help="their scale, if the set was tested at several")
    add("--best", action="store_true", help="tests of model_best.pt instead of the last tests")
    add("--finished", action="store_true", help="refuse runs that are not finished")
    add = parser.add_argument_group("tables").add_argument
    text = "joined by commas; names other than psnr, ssim and haar: metrics of the package pyiqa"
    add("--metrics", type=parse_metrics, default="psnr,ssim", help=text)
    add("--diff", action="store_true", help="also gains over the first row, with standard errors")
    add("--cost", action="store_true", help="also parameters and multiply-adds")
    add("--format", choices=["markdown", "csv", "latex"], default="markdown")
    text = "also write the table as CSV, and that of groups to FILE_groups.csv"
    add("--csv", type=Path, metavar="FILE", help=text)
    add = parser.add_argument_group("figures and curves").add_argument
    add("--figure", type=Path, metavar="FILE", help="draw crops (PNG, PDF, ...), no table")
    add("--image", nargs="+", help="images of --figure and --html, without extension")
    add("--one_file", action="store_true", help="several images in one figure")
    text = "crop in HR pixels; may be repeated (default: see --boxes)"
    add("--box", type=int, nargs=3, action="append", metavar=("X", "Y", "SIDE"), help=text)
    add("--boxes", type=int, default=1, metavar="N", help="boxes where methods differ most")
    add("--curves", type=Path, metavar="FILE", help="draw curves over the epochs, no table")
    add("--gains", type=Path, metavar="FILE", help="draw gains over the first row, no table")
    text = 'curves of --curves: PSNR, "PSNR Set5 x4", a loss term (default: all)'
    add("--keys", nargs="+", help=text)
    add("--dpi", type=int, help="dots per inch (default: 100; 300 in PDF)")
    add("--width", type=float, help="width of the figure on paper, in inches")
    text = "serif, sans-serif, monospace or the name of an installed font"
    add("--font", default="sans-serif", help=text)
    add = parser.add_argument_group("page").add_argument
    add("--html", type=Path, metavar="FILE", help="write a page for the browser")
    add("--quality", type=int, help="of the page's images, 1 to 100: smaller, with losses (WebP)")
    return parser


def parse_args(argv):
    """Parse the command line; end the program with a message if flags do not fit together."""
    parser = build_parser()
    args, unknown = parser.parse_known_intermixed_args(argv)
    for problem in unknown_flags(unknown, parser, {"--latex": "--format latex"}):
        parser.error(problem)
    if not (args.experiments or args.group or args.images):
        parser.error("give experiments, --group or --images")
    if args.labels and len(args.labels) != len(args.experiments):
        n_labels, n_experiments = len(args.labels), len(args.experiments)
        parser.error(f"--labels: {n_labels} labels for {n_experiments} experiments")
    if args.images and not (args.data_test or args.dir_demo):
        parser.error("--images needs --data_test, or --dir_demo for pictures without ground truth")
    if args.figure and not ((args.data_test or args.dir_demo) and args.image):
        parser.error("--figure needs --data_test and --image")
    for name, high in (("boxes", 100), ("dpi", 1200), ("width", 100), ("quality", 100)):
        value = getattr(args, name)
        if value is not None and not 0 < value <= high:
            parser.error(f"--{name} {value} must be above 0 and at most {high}")
    for name, value in vars(args).items():
        if isinstance(value, Path):  # shells expand no ~ in --flag=~/folder
            setattr(args, name, Path(os.path.expanduser(value)))
    # the test set of figures and page, or None if any
    args.data_test = args.data_test or ("Demo" if args.dir_demo else None)
    return args


class Comparison:
    """What the command line asks to compare: runs and their rows, groups of runs, folders."""

    def __init__(self, args):
        self.args, self._runs, self.folders = args, {}, []
        labels = args.labels or [None] * len(args.experiments)
        self.runs = [self._run(*pair) for pair in zip(args.experiments, labels, strict=True)]
        groups = parse_groups(args.group or [])
        self.members = {name: [self._run(member) for member in runs] for name, runs in groups}
        self.every_run = list(dict.fromkeys(sum(self.members.values(), self.runs)))
        name_apart(self.every_run, args.dir_experiment)
        waiting = [run for run in self.every_run if run.reason_unfinished]
        if args.finished and waiting:
            names = ", ".join(f"{run.folder.name}{run.reason_unfinished}" for run in waiting)
            raise UserError(f"--finished: these runs are not finished: {names}")
        truth = Truth(args.dir_data, self.every_run, args.dir_demo)
        self.scorer = Scorer(load_metrics(args.metrics), truth, args.cost)
        self.folders = [self._folder_row(text) for text in args.images or []]
        self.tested = rows_of(self.every_run)
        self.rows = [row for row in self.tested if row.run in self.runs] + self.folders
        members = self.members.items()
        self.groups = [group for name, runs in members for group in groups_of(name, runs)]

    def _run(self, name, label=None):
        """Return the Run of an experiment, the same for the same folder and label."""
        folder = self.args.dir_experiment / name
        key = folder.resolve(), label
        if key not in self._runs:
            needs_tests = not (self.args.figure or self.args.html)
            self._runs[key] = Run(folder, label, self.args.best, needs_tests)
        return self._runs[key]

    def _folder_row(self, text):
        label, folder = parse_folder(text)
        infers = self.args.dir_demo and not self.args.scale
        scales = [infer_scale(folder, self.args.dir_demo)] if infers else self.scales()
        if len(scales) != 1:
            raise UserError(f"--images {text}: give --scale")
        return FolderRow(label, folder, (self.args.data_test, scales[0]), self.scorer.truth)

    def scales(self):
        """Return the scales of --data_test: --scale, or those of its tests, or of config.txt."""
        if self.args.scale:
            return [self.args.scale]
        rows = [row for run in self.every_run for row in run.rows] + self.folders
        tested = {scale for row in rows for name, scale in row.tests if name == self.args.data_test}
        flags = "+".join(run.flags.get("scale", "") for run in self.every_run).split("+")
        return sorted(tested or {int(scale) for scale in flags if scale.isdigit()})

    def sources(self, key):
        """Return the rows with pictures of a set: runs, one run of each group, folders."""
        runs = list(self.runs)
        for members in self.members.values():
            saved = [run for run in members if any(row.sr_paths(key) for row in run.rows)]
            first = (saved or members)[0]
            runs += [first] if first.folder not in {run.folder for run in runs} else []
        return [row for run in runs for row in run.picture_rows(key)] + self.folders

    def tables(self):
        """Return the Tables of scores and gains: of rows with --diff, and of groups."""
        compared = self.rows if self.args.diff else [], self.groups
        tables = [gain_table(rows, self.scorer) for rows in compared if len(rows) > 1]
        return [score_table(self.rows + self.groups, self.scorer), *tables]


def csv_texts(comparison):
    """Return the tables of rows and of groups, those that there are, as CSV."""
    kinds = (exports.row_csv, comparison.rows), (exports.group_csv, comparison.groups)
    return [to_csv(rows, comparison.scorer) for to_csv, rows in kinds if rows]


def print_tables(comparison):
    """Print the tables."""
    args, scorer = comparison.args, comparison.scorer
    rows, groups = comparison.rows, comparison.groups
    tested = [row.run for row in comparison.tested]
    lacking = [run.label for run in comparison.every_run if run not in tested]
    if not (rows or groups):
        raise UserError(f"no test to compare: {', '.join(lacking)}")
    for label in lacking:
        print_error(f"WARNING: {label} has no test")
    if args.diff and not groups and len(rows) < 2:
        raise UserError("--diff needs two rows or more")
    if args.format == "csv":
        print("\n".join(csv_texts(comparison)), end="")
    elif args.format == "latex":
        print(exports.latex(rows + groups, scorer))
    else:
        print("\n\n".join(table.markdown() for table in comparison.tables()))


def write_csv(comparison):
    """Write the tables of --csv."""
    file = comparison.args.csv
    groups_file = file.with_name(f"{file.stem}_groups{file.suffix}")
    file.parent.mkdir(parents=True, exist_ok=True)
    for path, text in zip((file, groups_file), csv_texts(comparison), strict=False):
        with atomic_path(path) as partial:
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def draw_figures(comparison):
    """Draw the images of --figure; return the paths."""
    args, scales = comparison.args, comparison.scales()
    if len(scales) != 1:
        found = ", ".join(map(str, scales)) or "unknown"
        raise UserError(f"--figure: give --scale: the scales of {args.data_test} are {found}")
    key = args.data_test, scales[0]
    rows, scorer = comparison.sources(key), comparison.scorer
    first = {row.run: row for row in reversed(rows)}  # a run's tests of other pixels are left out
    rows = [r for r in rows if r.run is None or not other_pixels([first[r.run], r], key)]
    found = [pictures.load_picture(rows, scorer, key, image) for image in args.image]
    return figures.draw_pictures(found, args)


def write_page(comparison):
    """Write the page of --html with the images that all rows with saved images have."""
    args, scorer, data_test = comparison.args, comparison.scorer, comparison.args.data_test
    keys = dict.fromkeys(key for row in comparison.tested for key in row.tests)
    if data_test:
        keys = [(data_test, scale) for scale in comparison.scales()]
    wanted, notes, found = [], [], set()  # (rows, key, name)
    for key in keys:
        if args.scale in (None, key[1]):
            rows, images, left_out = pictures.comparable_images(comparison.sources(key), key)
            wanted += [(rows, key, name) for name in images if name in (args.image or images)]
            notes += left_out
            found.update(images)
    if unknown := set(args.image or ()) - found:
        have = bullet_list(sorted(found)) if found else " none"
        raise UserError(f"--image {min(unknown)} is not saved for all methods; those are:{have}")
    # without ground truth there may be no score
    tables = [
        t for t in comparison.tables() if any(c.value is not None for r in t.rows for c in r[2:])
    ]
    compared = [*comparison.runs, *comparison.groups, *comparison.folders]
    title = f"Comparison of {', '.join(x.label for x in compared)}"
    title += f" on {data_test}" if data_test else ""
    load = (pictures.load_picture(rows, scorer, key, name) for rows, key, name in wanted)
    pictures.write_page(args.html, title, tables, scorer.metrics, load, len(wanted), args.quality)
    size = args.html.stat().st_size / 1e6
    print(f"written: {args.html} ({len(wanted)} images, {size:.1f} MB)")
    print("".join(f"{note}\n" for note in notes), end="")
    if not wanted:
        print("no image is saved for all methods: test them with --save_results --save_gt")


def main(argv=None):
    """Do what the command line asks for; return the exit status."""
    for stream in (sys.stdout, sys.stderr):  # names of files may be any bytes
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    args = parse_args(argv)
    try:
        comparison = Comparison(args)
        drawn = draw_figures(comparison) if args.figure else []
        drawn += [figures.draw_curves(comparison.every_run, args)] if args.curves else []
        if args.gains:
            compared = comparison.groups or comparison.rows
            drawn += [figures.draw_gains(compared, comparison.scorer, args)]
        for path in drawn:
            print(f"drawn: {path}")
        if args.html:
            write_page(comparison)
        elif not drawn:
            print_tables(comparison)
        if args.csv:
            write_csv(comparison)
    except BrokenPipeError:
        raise
    except (UserError, OSError, MemoryError) as error:
        print_error(f"error: {error or 'no memory is left'}")
        return 1
    return 0


if __name__ == "__main__":
    try:
        try:
            status = main()
        finally:
            print(end="", flush=True)
    except BrokenPipeError:  # the reader of the output has closed, as `| head` does
        os._exit(0)
    sys.exit(status)
