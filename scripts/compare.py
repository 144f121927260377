#!/usr/bin/env python3
"""Compare experiments: tables, gains with standard errors, curves, figures, a page for the browser.

    scripts/compare.py bicubic EDSR EDSR-PCL --diff --best --csv results.csv --cost
    scripts/compare.py --group "L1=L1_s1,L1_s2,L1_s3" "PCL=PCL_s1,PCL_s2,PCL_s3" --format latex
    scripts/compare.py EDSR --images SwinIR=folder --data_test Set5 --scale 4 --metrics psnr,lpips
    scripts/compare.py EDSR EDSR-PCL --curves curves.pdf --keys PSNR L1
    scripts/compare.py EDSR EDSR-PCL --figure set5.png --data_test Set5 --image baby bird
    scripts/compare.py bicubic EDSR EDSR-PCL --html report.html --data_test Set14
    scripts/compare.py --images EDSR=out1 RCAN=out2 --dir_demo photos --html report.html
Figures and pages are made from tests with --save_results --save_gt. See docs/compare.md.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

from comparison import exports, figures, pictures, tables
from comparison.gains import groups_of, parse_groups
from comparison.images import FolderRow, Truth, infer_scale, parse_folder
from comparison.runs import Run, name_apart, rows_of
from comparison.scoring import CostTable, Scorer
from flag_checks import unknown_flags
from image_quality import load_metrics, parse_metrics
from runtime.files import UserError, atomic_path, ignore_closed_pipe, print_error


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
    add("--csv_images", type=Path, metavar="FILE", help="also write the scores of each image")
    add = parser.add_argument_group("figures and curves").add_argument
    add("--figure", type=Path, metavar="FILE", help="draw crops (PNG, PDF, ...), no table")
    add("--image", nargs="+", help="images of --figure and --html, without extension")
    add("--one_file", action="store_true", help="several images in one figure")
    text = "crop in HR pixels; may be repeated (default: see --boxes)"
    add("--box", type=int, nargs=3, action="append", metavar=("X", "Y", "SIDE"), help=text)
    add("--boxes", type=int, default=1, metavar="N", help="boxes where methods differ most")
    add("--curves", type=Path, metavar="FILE", help="draw curves over the epochs, no table")
    text = 'curves of --curves: PSNR, "PSNR Set5 x4", a loss term (default: all)'
    add("--keys", nargs="+", help=text)
    add("--dpi", type=int, help="dots per inch (default: 100; 300 in PDF)")
    add("--width", type=float, help="width of the figure on paper, in inches")
    add("--font", help="serif, sans-serif, monospace or the name of an installed font")
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
    for name in ("boxes", "dpi", "width", "quality"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            parser.error(f"--{name} {value} must be above 0")
    if args.quality is not None and args.quality > 100:
        parser.error(f"--quality {args.quality} must be at most 100")
    # the test set of figures and page, or None if any
    args.data_test = args.data_test or ("Demo" if args.dir_demo else None)
    return args


class Comparison:
    """What the command line asks to compare: runs and their rows, groups of runs, folders."""

    def __init__(self, args):
        self.args, self._runs = args, {}
        labels = args.labels or [None] * len(args.experiments)
        self.runs = [self._run(*pair) for pair in zip(args.experiments, labels, strict=True)]
        pairs = parse_groups(args.group or [])
        self.members = [[self._run(member) for member in names] for _, names in pairs]
        members = [run for runs in self.members for run in runs]
        # with those of groups, as in all_rows
        self.every_run = list(dict.fromkeys(self.runs + members))
        name_apart(self.every_run, args.dir_experiment)
        groups = zip(pairs, self.members, strict=True)
        self.groups = [group for (name, _), runs in groups for group in groups_of(name, runs)]
        self._check_finished()
        truth = Truth(args.dir_data, self.every_run, args.dir_demo)
        self.scorer = Scorer(load_metrics(args.metrics), truth)
        self.costs = CostTable() if args.cost else None
        self.folders = [self._folder_row(text, truth) for text in args.images or []]
        self.rows = [*rows_of(self.runs), *self.folders]
        self.all_rows = list(dict.fromkeys([*self.rows, *rows_of(members)]))
        self.scorer.fill(self.folders)

    def _run(self, name, label=None):
        """Return the Run of an experiment, the same for the same folder and label."""
        folder = self.args.dir_experiment / name
        key = folder.resolve(), label
        if key not in self._runs:
            needs_tests = not (self.args.figure or self.args.html)
            self._runs[key] = Run(folder, label, self.args.best, needs_tests)
        return self._runs[key]

    def _check_finished(self):
        waiting = [run for run in self.every_run if run.reason_unfinished]
        if self.args.finished and waiting:
            names = ", ".join(f"{run.folder.name}{run.reason_unfinished}" for run in waiting)
            raise UserError(f"--finished: these runs are not finished: {names}")

    def _folder_row(self, text, truth):
        label, folder = parse_folder(text)
        data_test, scale = self.args.data_test, self.args.scale
        if self.args.dir_demo:
            scale = scale or infer_scale(folder, self.args.dir_demo)
        else:
            rows = [row for run in self.every_run for row in run.rows]
            scales = {scale for row in rows for name, scale in row.tests if name == data_test}
            scales |= set(pictures.saved_scales(rows, data_test))
            scale = scale or (min(scales) if len(scales) == 1 else None)
        if scale is None:
            raise UserError(f"--images {text}: give --scale")
        return FolderRow(label, folder, (data_test, scale), truth)

    def sources(self, key):
        """Return the rows that pictures of a set come from."""
        return pictures.picture_sources(self.runs, self.members, self.folders, key)

    def check_tests(self):
        """Warn about runs without tests; raise UserError if nothing is left to compare."""
        tested = {id(row.run) for row in self.all_rows}
        lacking = [run.label for run in self.every_run if id(run) not in tested]
        if not (self.rows or self.groups):
            raise UserError(f"no test to compare: {', '.join(lacking)}")
        for label in lacking:
            print_error(f"WARNING: {label} has no test")
        if self.args.diff and not self.groups and len(self.rows) < 2:
            raise UserError("--diff needs two rows or more")


def further_tables(comparison, with_groups=True):
    """Return the Tables below that of the rows: gains, groups unless they stand there, their gains."""
    rows, groups, scorer = comparison.rows, comparison.groups, comparison.scorer
    found = [tables.gain_table(rows, scorer)] if comparison.args.diff and len(rows) > 1 else []
    if groups and with_groups:
        found.append(tables.score_table(groups, scorer, comparison.costs))
    return found + ([tables.group_gain_table(groups, scorer)] if len(groups) > 1 else [])


def print_tables(comparison):
    """Print the tables, and write those that have a file."""
    args, rows, groups = comparison.args, comparison.rows, comparison.groups
    scorer, costs = comparison.scorer, comparison.costs
    comparison.check_tests()
    csv_texts = []
    if args.csv or args.format == "csv":
        csv_texts += [exports.csv_text(rows, scorer, costs)] if rows else []
        csv_texts += [exports.group_csv_text(groups, scorer)] if groups else []
    if args.format == "csv":
        print("\n".join(csv_texts), end="")
    elif args.format == "latex":
        print(exports.latex([*rows, *groups], scorer, costs))
    else:
        found = [tables.score_table(rows, scorer, costs)] if rows else []
        found += further_tables(comparison)
        print("\n\n".join(table.markdown() for table in found))
    if args.csv:
        groups_file = args.csv.with_name(f"{args.csv.stem}_groups{args.csv.suffix}")
        for path, text in zip((args.csv, groups_file), csv_texts, strict=False):
            write_text(path, text)
    if args.csv_images:
        write_text(args.csv_images, exports.image_csv_text(comparison.all_rows, scorer))


def write_text(path, text):
    """Write a text file atomically, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def draw_figures(comparison):
    """Draw the images of --figure; return the paths."""
    args, found = comparison.args, []
    for image in args.image:
        anywhere = comparison.sources((args.data_test, None))
        key = pictures.find_key(anywhere, args.data_test, image, args.scale)
        rows = comparison.sources(key)
        found.append(pictures.load_picture(rows, comparison.scorer, key, image))
    return figures.draw_pictures(found, args)


def write_page(comparison):
    """Write the page of --html with the images that all rows with saved images have."""
    args, scorer, name = comparison.args, comparison.scorer, comparison.args.data_test
    keys = [key for row in comparison.all_rows for key in row.tests]
    if name:
        scales = pictures.saved_scales(comparison.sources((name, None)), name)
        keys += [(name, scale) for scale in scales]
    wanted, notes = [], []  # (rows, key, image)
    for key in dict.fromkeys(keys):
        if name in (None, key[0]) and args.scale in (None, key[1]):
            rows, left_out = pictures.comparable_rows(comparison.sources(key), key)
            images = pictures.saved_images(rows, key)
            images = [image for image in images if args.image is None or image in args.image]
            wanted += [(rows, key, image) for image in images]
            notes += left_out if images else []
    methods = [*comparison.rows, *comparison.groups]
    found = [exports.ranked_table(methods, scorer, comparison.costs)] if methods else []
    found = [table for table in found if any(c.rank or c.value for r in table.rows for c in r[2:])]
    found += further_tables(comparison, with_groups=False)
    labels = [run.label for run in comparison.runs] + [group.label for group in comparison.groups]
    title = "Comparison of " + ", ".join(labels + [row.label for row in comparison.folders])
    title += f" on {args.data_test}" if args.data_test else ""
    load = (pictures.load_picture(rows, scorer, key, image) for rows, key, image in wanted)
    pictures.write_page(args.html, title, found, scorer.metrics, load, len(wanted), args.quality)
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
        for path in drawn:
            print(f"drawn: {path}")
        if args.html:
            write_page(comparison)
        elif not drawn:
            print_tables(comparison)
    except BrokenPipeError:
        raise
    except (UserError, OSError) as error:
        print_error(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(ignore_closed_pipe(main))
