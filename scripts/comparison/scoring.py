"""Scores of the images of rows, the cost of their networks, and which scores are comparable.

"Rows" are rows or groups: the `rows` of a group are its members, those of a row are itself.
"""

import math
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from checkpoint.metrics import finite_mean
from comparison.runs import is_same_psnr
from data.datasets import dataset_spec
from data.image import read_image, to_channels, to_tensor
from image_quality import OWN, score
from metric import calc_psnr, calc_ssim
from model import build_network, count_parameters, is_multi_scale
from option import parse_args
from runtime.files import UserError


def check_size(image, expected, path, of_what):
    """Raise UserError if an image of a file has not the size of another one."""
    if image.shape[:2] != expected.shape[:2]:
        sizes = [f"{x.shape[1]}x{x.shape[0]} pixels" for x in (expected, image)]
        raise UserError(f"{path} must have the size of {of_what}, {sizes[0]}, it is {sizes[1]}")


class Scorer:
    """Scores by a list of Metric, and costs of networks; `notes` say which are missing."""

    def __init__(self, metrics, truth, with_costs=False):
        self.metrics, self.truth, self.with_costs = metrics, truth, with_costs
        self._missing, self._cache = {}, {}

    @property
    def notes(self):
        """Sentences on what is missing, one for all rows that lack it for the same reason."""
        return [f"no {what} of {', '.join(of)}{why}" for (what, why), of in self._missing.items()]

    def _note(self, what, row, why):
        self._missing.setdefault((what, why), {})[row.label] = True

    def scores(self, row, key):
        """Return {image: {metric name: value}} of a row's test; None if they are unknown."""
        if (row, key) not in self._cache:
            self._cache[row, key] = self._find_scores(row, key)
        return self._cache[row, key]

    def mean(self, row, key, metric):
        """Return the mean of a metric over the images of a row's test, or None."""
        if key not in row.tests:
            return None
        if row.run and (metric.name in OWN or metric.name in row.tests[key]):
            return row.tests[key].get(metric.name)
        scores = self.scores(row, key) or {}
        values = [found[metric.name] for found in scores.values() if metric.name in found]
        return finite_mean(values) if len(values) == len(scores) else None

    def _find_scores(self, row, key):
        """Return the scores that a test kept, with those of other metrics from its images."""
        own = row.scores(key)
        kept = set().union(*(own or {}).values())
        others = [m for m in self.metrics if m.compute and m.name not in kept]
        if row.run and not others:
            return own
        paths, found = row.sr_paths(key), {}
        images = list(own or paths)
        is_saved = bool(images) and all(image in paths for image in images)
        for image in images if is_saved else ():
            path, mine = paths[image], (own or {}).get(image, {})
            scores = self.image_scores(read_image(path), key, image, row.is_luma, others, path)
            if mine and "psnr" in scores and not is_same_psnr(mine["psnr"], scores["psnr"]):
                break
            found[image] = scores | mine
        is_complete = is_saved and len(found) == len(images)
        if row.run is None or (is_complete and (own or _is_of_test(row.tests[key], found))):
            return found
        if titles := ", ".join(m.title for m in others if m.name not in row.tests[key]):
            state = "of another test (test again" if is_saved else "not saved (test"
            problem = f"the SR images are {state} with --save_results)"
            self._note(titles, row, f" on {key[0]} x{key[1]}: {problem}")
        return own

    def image_scores(self, image, key, name, is_luma, metrics, source):
        """Return {metric name: value} of an SR image (H, W, C), as tests do, with PSNR and SSIM.

        Tests of --n_colors 1 compare Y, the others three channels: gray ones are repeated. Without
        HR, metrics that need it are left out. `source` is for messages.
        """
        found, sr, hr = {}, image, self.truth.hr(key, name)
        if hr is not None:
            check_size(image, hr, source, "HR")
            hr_is_luma = self.truth.find(key)[1]
            if is_luma or hr_is_luma:
                sr, hr = _to_luma(image, True), _to_luma(hr, hr_is_luma)
            else:
                sr, hr = to_channels(image, 3), to_channels(hr, 3)
            hr, benchmark = to_tensor(hr), dataset_spec(key[0]).benchmark
            try:
                for own, compute in (("psnr", calc_psnr), ("ssim", calc_ssim)):
                    found[own] = compute(to_tensor(sr), hr, key[1], 255, benchmark)
            except ValueError as error:
                where = f"{source} on {key[0]} x{key[1]}"
                raise UserError(f"{where} cannot be scored: {error}") from error
        usable = [m for m in metrics if m.compute and (hr is not None or not m.needs_hr)]
        return found | {m.name: score(m, to_tensor(sr), hr, source) for m in usable}

    def cost(self, row, scale):
        """Return the Cost of the network of a row, or of the first one of a group, or None."""
        run = row.rows[0].run
        if not run or not run.flags:
            return None
        if (run.folder, scale) not in self._cache:
            self._cache[run.folder, scale] = None
            flags = ["--dir_experiment", str(run.folder.parent), "--load", run.folder.name]
            try:
                args = parse_args([*flags, "--test_only", "--cpu"])
                self._cache[run.folder, scale] = cost_of(args, scale)
            except Exception as error:  # networks of others fail in any way
                reason = (str(error).splitlines() or [repr(error)])[0]
                self._note("multiply-adds", run, f" x{scale}: {reason}")
        return self._cache[run.folder, scale]


def _to_luma(image, is_luma):
    return image if is_luma and image.shape[2] == 1 else to_channels(image, 1)


def _is_of_test(test, found):
    """Return whether scores of saved images have the means that their test has recorded."""
    mean = finite_mean([scores["psnr"] for scores in found.values() if "psnr" in scores])
    return is_same_psnr(mean, test["psnr"]) and test.get("images", len(found)) == len(found)


# ------------------------------------------------------------------ cost

SR_PIXELS = 1280 * 720  # the field's convention: multiply-adds for one such SR image
# LR pixels of the image that is counted. The cost is proportional to the pixels, except for the
# hashing of NLSN: 0.1 % of its cost at 1280x720, less at this size.
SIDE = 64  # a multiple of the windows of published networks, to which they pad images


class Cost(NamedTuple):
    """Trainable parameters, and multiply-adds of matrix products and convolutions."""

    parameters: int
    multiply_adds: float


def cost_of(args, scale):
    """Return the Cost of the network that flags describe, at a scale, from one small image."""
    args.scale = args.scale if scale in args.scale else [scale]  # MDSR has all
    net = build_network(args).eval()
    n_parameters = count_parameters(net)
    net.requires_grad_(False)  # the counter adds hooks to what has a gradient
    lr = torch.zeros(1, args.n_colors, SIDE, SIDE)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net(lr, scale) if is_multi_scale(net) else net(lr)
    images = SR_PIXELS / (SIDE * scale) ** 2
    return Cost(n_parameters, counter.get_total_flops() / 2 * images)


# ------------------------------------------------------ which images tests share


def tests_of(rows, key):
    """Return the rows, and members of groups, that were tested on (dataset, scale)."""
    members = dict.fromkeys(member for row in rows for member in row.rows)
    return [row for row in members if key in row.tests]


def plural(count, noun):
    """Return "1 image" or "2 images"; a count of None is unknown."""
    return f"{'?' if count is None else count} {noun}{'' if count == 1 else 's'}"


def other_pixels(rows, key):
    """Return how the fingerprints of the images of tests differ, or None; unknown ones fit all."""
    known = [(row, i) for row in tests_of(rows, key) if (i := row.tests[key].get("images_id"))]
    for row, images_id in known[1:]:
        if images_id != known[0][1]:
            first = f"{known[0][0].label} ({known[0][1]})"
            return f"{row.label} ({images_id}) was tested on other pixels than {first}"
    return None


def mismatch(rows, key, scorer):
    """Return how the tests of rows differ in their images, or None."""
    rows = tests_of(rows, key)
    counts = [row.tests[key].get("images") for row in rows]
    if len(set(counts)) > 1:
        first, *others = zip(rows, counts, strict=True)
        texts = [f"{first[0].label} has {plural(first[1], 'image')}"]
        return ", ".join(texts + [f"{row.label} {'?' if n is None else n}" for row, n in others])
    known = [(row, set(found)) for row in rows if (found := scorer.scores(row, key)) is not None]
    for row, images in known[1:]:
        if images != known[0][1]:
            stray = min(images ^ known[0][1])
            return f"{row.label} was tested on other images than {known[0][0].label} ({stray})"
    return other_pixels(rows, key)


def lost_images(row, key, metric, scorer):
    """Return the images that have no finite value of a metric."""
    scores = scorer.scores(row, key) or {}
    return {i for i, found in scores.items() if not math.isfinite(found.get(metric.name, 0))}


def means_are_comparable(rows, key, metric, scorer):
    """Return whether the means of rows are known to be over the same images."""
    lost = [lost_images(row, key, metric, scorer) for row in tests_of(rows, key)]
    return all(images == lost[0] for images in lost) and mismatch(rows, key, scorer) is None


def common_scores(rows, key, metric, scorer):
    """Return {row: values of the images that are finite in all rows}; None if some are unknown."""
    tables, name = {row: scorer.scores(row, key) for row in rows}, metric.name
    if None in tables.values() or any(name not in s for t in tables.values() for s in t.values()):
        return None
    lost = set().union(*(lost_images(row, key, metric, scorer) for row in rows))
    images = [image for image in tables[rows[0]] if image not in lost]
    return {row: [table[image][name] for image in images] for row, table in tables.items()}


def image_notes(rows, scorer):
    """Return sentences about tests on different images and about images without a value."""
    notes = []
    for key in dict.fromkeys(key for row in rows for key in row.tests):
        where = f"{key[0]} x{key[1]}"
        if problem := mismatch(rows, key, scorer):
            notes.append(f"{where}: {problem}: not comparable")
        for row in tests_of(rows, key):
            for metric in scorer.metrics:
                if n_lost := len(lost_images(row, key, metric, scorer)):
                    total, name = plural(len(scorer.scores(row, key)), "image"), metric.title
                    has = f"{'has' if n_lost == 1 else 'have'} no finite {name.split(' (')[0]}"
                    notes.append(f"{row.label} on {where}: {n_lost} of {total} {has}")
    return notes
