#!/usr/bin/env python3
"""Compare experiments: tables, gains with standard errors, figures, and a page for the browser.

tables
    scripts/compare.py bicubic EDSR EDSR-PCL --diff
        the last test of each set in experiment/NAME/metrics.jsonl; below, the mean gain of each
        row's images over those of the first row, with its standard error over images
    scripts/compare.py bicubic EDSR EDSR-PCL --best --csv results.csv --format latex --cost
        the tests of model_best.pt; as CSV in full precision; as LaTeX, with network sizes
    scripts/compare.py --group "L1=L1_s1,L1_s2,L1_s3" "PCL=PCL_s1,PCL_s2,PCL_s3"
        means over seeds, and gains with standard errors over seeds and over images
    scripts/compare.py EDSR --images SwinIR=folder --data_test Set5 --scale 4 --metrics psnr,lpips
        also SR images of other software, and metrics of the package pyiqa
figures and page, from tests with --save_results --save_gt
    scripts/compare.py EDSR EDSR-PCL --figure set5.png --data_test Set5 --image baby bird
        set5_baby.png and set5_bird.png (--one_file: a single figure): the image with a box, then
        that box of bicubic, each experiment and HR, with the scores of the whole image
    scripts/compare.py bicubic EDSR EDSR-PCL --html report.html --data_test Set14
        one file that needs no network: table, scores of each image, sliders, zoom, differences
    scripts/compare.py --images EDSR=out1 RCAN=out2 --dir_demo photos --html report.html
        pictures without ground truth; --figure works, too
See docs/compare.md.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]
from runtime.interpreter import use_project_packages

if __name__ == "__main__":
    use_project_packages()  # before imports that need them

from comparison import figures, html, tables
from comparison.cost import CostTable
from comparison.folders import FolderRow, infer_scale, parse_folder
from comparison.gains import check_names, groups_of, parse_group
from comparison.latex import latex
from comparison.pictures import (
    find_key,
    load_picture,
    picture_sources,
    saved_images,
    saved_scales,
)
from comparison.runs import Run, name_apart, rows_of
from comparison.scoring import Scorer, fill_folder_rows
from comparison.truth import Truth
from image_quality import load_metrics, parse_metrics
from runtime.files import UserError, atomic_path


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
    add("--metrics", type=parse_metrics, default="psnr,ssim", help="names joined by commas; names "
        "other than psnr, ssim and haar: metrics of the package pyiqa")  # fmt: skip
    add("--diff", action="store_true", help="also gains over the first row, with standard errors")
    add("--cost", action="store_true", help="also parameters and multiply-adds")
    add("--format", choices=["markdown", "csv", "latex"], default="markdown")
    add("--csv", type=Path, metavar="FILE", help="also write the table as CSV, and that of groups "
        "to FILE_groups.csv")  # fmt: skip
    add("--csv_images", type=Path, metavar="FILE", help="also write the scores of each image")
    add = parser.add_argument_group("figures").add_argument
    add("--figure", type=Path, metavar="FILE", help="draw crops (PNG, PDF, ...), no table")
    add("--image", nargs="+", help="images of --figure and --html, without extension")
    add("--one_file", action="store_true", help="several images in one figure")
    add("--box", type=int, nargs=3, action="append", metavar=("X", "Y", "SIDE"),
        help="crop in HR pixels; may be repeated (default: see --boxes)")  # fmt: skip
    add("--boxes", type=int, default=1, metavar="N", help="boxes where methods differ most")
    add("--dpi", type=int, help="dots per inch (default: 100; 300 in PDF)")
    add("--width", type=float, help="width of the figure in inches")
    add = parser.add_argument_group("page").add_argument
    add("--html", type=Path, metavar="FILE", help="write a page for the browser")
    add("--quality", type=int, help="of the page's images, 1 to 100: smaller, with losses (WebP)")
    return parser


def check_flags(parser, args):
    """End the program with a message if flags do not fit together."""
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
        if value is not None and value <= 0:
            parser.error(f"--{name} {value} must be above 0")
    if args.quality is not None and args.quality > 100:
        parser.error(f"--quality {args.quality} must be at most 100")


class Comparison:
    """What the command line asks to compare.

    Attributes:
        runs: list of Run of the experiments; every_run: also those of the groups.
        rows: rows of the experiments and folders; all_rows: also those of the groups' members.
        groups: list of Group.
        folders: list of FolderRow.
        truth, scorer, costs: Truth, Scorer, and CostTable or None.
    """

    def __init__(self, args):
        self.args = args
        labels = args.labels or [None] * len(args.experiments)
        self.runs = [self._run(*pair) for pair in zip(args.experiments, labels, strict=True)]
        pairs = [parse_group(text) for text in args.group or []]
        check_names([name for name, _ in pairs])
        members = [(name, [self._run(member) for member in names]) for name, names in pairs]
        self.every_run = self.runs + [run for _, runs in members for run in runs]
        name_apart(self.every_run, args.dir_experiment)
        self.groups = [group for name, runs in members for group in groups_of(name, runs)]
        self._check_finished(self.every_run)
        self.truth = Truth(args.dir_data, self.every_run, args.dir_demo)
        self.scorer = Scorer(load_metrics(args.metrics), self.truth)
        self.costs = CostTable() if args.cost else None
        self.folders = [self._folder_row(text) for text in args.images or []]
        self.rows = [*rows_of(self.runs), *self.folders]
        self.all_rows = [*self.rows, *(row for _, runs in members for row in rows_of(runs))]
        fill_folder_rows(self.folders, self.scorer)

    def _run(self, name, label=None):
        needs_tests = not (self.args.figure or self.args.html)
        return Run(self.args.dir_experiment / name, label, self.args.best, needs_tests)

    def _check_finished(self, runs):
        waiting = [
            f"{run.folder.name}{run.reason_unfinished}" for run in runs if run.reason_unfinished
        ]
        if self.args.finished and waiting:
            raise UserError(f"--finished: these runs are not finished: {', '.join(waiting)}")

    def _folder_row(self, text):
        label, folder = parse_folder(text)
        data_test = self.args.data_test or "Demo"
        if self.args.dir_demo:
            scale = self.args.scale or infer_scale(folder, self.args.dir_demo)
            return FolderRow(label, folder, (data_test, scale), self.truth)
        rows = [row for run in self.every_run for row in run.rows]
        scales = {scale for row in rows for name, scale in row.tests if name == data_test}
        scales |= set(saved_scales(rows, data_test))
        scale = self.args.scale or (min(scales) if len(scales) == 1 else None)
        if scale is None:
            raise UserError(f"--images {text}: give --scale")
        return FolderRow(label, folder, (data_test, scale), self.truth)

    def sources(self, key):
        """Return the rows that pictures of a set come from."""
        return picture_sources(self.every_run, self.folders, key)

    def check_tests(self):
        """Warn about runs without tests.

        Raises:
            UserError: nothing is left to compare.
        """
        tested = {id(row.run) for row in self.all_rows}
        lacking = [run.label for run in self.every_run if id(run) not in tested]
        if not (self.rows or self.groups):
            raise UserError(f"no test to compare: {', '.join(lacking)}")
        for label in lacking:
            print(f"WARNING: {label} has no test", file=sys.stderr)
        if self.args.diff and not self.groups and len(self.rows) < 2:
            raise UserError("--diff needs two rows or more")

    @property
    def data_test(self):
        """The test set of figures and page, or None if any."""
        return self.args.data_test or ("Demo" if self.args.dir_demo else None)


def print_tables(comparison):
    """Print the tables, and write those that have a file."""
    args, rows, groups = comparison.args, comparison.rows, comparison.groups
    scorer, costs = comparison.scorer, comparison.costs
    comparison.check_tests()
    csv_texts = []
    if args.csv or args.format == "csv":
        csv_texts += [tables.csv_text(rows, scorer, costs)] if rows else []
        csv_texts += [tables.group_csv_text(groups, scorer)] if groups else []
    if args.format == "csv":
        print("\n".join(csv_texts), end="")
    elif args.format == "latex":
        print(latex([*rows, *groups], scorer, costs))
    else:
        parts = [tables.score_table(rows, scorer, costs)] if rows else []
        print("\n\n".join(parts + [table.markdown() for table in further_tables(comparison)]))
    if args.csv:
        groups_file = args.csv.with_name(f"{args.csv.stem}_groups{args.csv.suffix}")
        files = [args.csv, groups_file]
        for path, text in zip(files, csv_texts, strict=False):
            write_text(path, text)
    if args.csv_images:
        write_text(args.csv_images, tables.image_csv_text(comparison.all_rows, scorer))


def further_tables(comparison):
    """Return the Tables below that of the scores: gains, groups, and gains of groups."""
    rows, groups, scorer = comparison.rows, comparison.groups, comparison.scorer
    found = [tables.gain_table(rows, scorer)] if comparison.args.diff and len(rows) > 1 else []
    found += [tables.group_table(groups, scorer, comparison.costs)] if groups else []
    return found + ([tables.group_gain_table(groups, scorer)] if len(groups) > 1 else [])


def write_text(path, text):
    """Write a text file atomically, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def draw_figures(comparison):
    """Draw the images of --figure."""
    args, pictures = comparison.args, []
    for image in args.image:
        anywhere = comparison.sources((comparison.data_test, None))
        key = find_key(anywhere, comparison.data_test, image, args.scale)
        rows = comparison.sources(key)
        pictures.append(load_picture(rows, comparison.truth, comparison.scorer, key, image))
    for path in figures.draw_pictures(args.figure, pictures, args):
        print(f"drawn: {path}")


def page_keys(comparison):
    """Return the tests of the page: (dataset, scale) with results or saved images."""
    args, data_test = comparison.args, comparison.data_test
    keys = list(dict.fromkeys(key for row in comparison.all_rows for key in row.tests))
    if data_test:
        rows = comparison.sources((data_test, None))
        keys += [(data_test, scale) for scale in saved_scales(rows, data_test)]
    return [
        key
        for key in dict.fromkeys(keys)
        if data_test in (None, key[0]) and args.scale in (None, key[1])
    ]


def write_page(comparison):
    """Write the page of --html with the images that every source has."""
    args = comparison.args
    keys = page_keys(comparison)
    names = [(key, name) for key in keys for name in saved_images(comparison.sources(key), key)]
    names = [(key, name) for key, name in names if args.image is None or name in args.image]
    load = (
        load_picture(comparison.sources(key), comparison.truth, comparison.scorer, key, name)
        for key, name in names
    )
    html.write(args.html, comparison, further_tables(comparison), load, len(names), args.quality)
    size = args.html.stat().st_size / 1e6
    print(f"written: {args.html} ({len(names)} images, {size:.1f} MB)")
    if not names:
        print("no image is saved for all methods: test them with --save_results --save_gt")


def main(argv=None):
    """Do what the command line asks for; return the exit status."""
    parser = build_parser()
    args = parser.parse_args(argv)
    check_flags(parser, args)
    try:
        comparison = Comparison(args)
        if args.figure:
            draw_figures(comparison)
        elif args.html:
            write_page(comparison)
        else:
            print_tables(comparison)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
