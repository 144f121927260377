"""Scores of the images of rows, the cost of their networks, and which scores are comparable.

Scores are those that tests kept, or are computed from saved images. Tables, ranks, gains and groups
all ask here whether means are over the same images. "Rows" are rows or groups; a group stands for
its members.
"""

import math
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from checkpoint.metrics import finite_mean
from data.datasets import dataset_spec
from data.image import read_image, to_channels, to_tensor
from image_quality import OWN, score
from metric import calc_psnr, calc_ssim
from model import build_network, count_parameters, is_multi_scale
from option import parse_args
from runtime.files import UserError

SAME_PSNR = 0.005  # dB; HR of 16 bits is saved with 8


def own_scores(sr, hr, key, name):
    """Return {"psnr": ..., "ssim": ...} of two images (H, W, C), as tests do."""
    arguments = (to_tensor(sr), to_tensor(hr), key[1], 255, dataset_spec(key[0]).benchmark)
    try:
        return {"psnr": calc_psnr(*arguments), "ssim": calc_ssim(*arguments)}
    except ValueError as error:
        raise UserError(f"{name} on {key[0]} x{key[1]} cannot be scored: {error}") from error


def other_scores(metrics, sr, hr, image):
    """Return {metric name: value} of the metrics that are computed from images (H, W, C).

    Without HR, metrics that need it are left out. `image` is a name for messages.
    """
    usable = [m for m in metrics if m.compute and (hr is not None or not m.needs_hr)]
    tensors = [None if x is None else to_tensor(x) for x in (sr, hr)]
    return {metric.name: score(metric, *tensors, image) for metric in usable}


def _to_luma(image, is_luma):
    return image if is_luma and image.shape[2] == 1 else to_channels(image, 1)


def is_same_psnr(a, b):
    """Return whether two PSNR are of the same image."""
    return math.isclose(a, b, rel_tol=0, abs_tol=SAME_PSNR)


def _is_whole_test(test, scores):
    """Return whether scores of saved images have the means that their test has recorded."""
    mean = finite_mean([found["psnr"] for found in scores.values() if "psnr" in found])
    is_known = None not in (mean, test["psnr"])
    is_same = is_same_psnr(mean, test["psnr"]) if is_known else mean is test["psnr"]
    return is_same and test.get("images", len(scores)) == len(scores)


def check_size(image, expected, path, of_what):
    """Raise UserError if an image of a file has not the size of another one."""
    if image.shape[:2] != expected.shape[:2]:
        sizes = [f"{x.shape[1]}x{x.shape[0]} pixels" for x in (expected, image)]
        raise UserError(f"{path} must have the size of {of_what}, {sizes[0]}, it is {sizes[1]}")


class Scorer:
    """Scores of the images of rows by a list of Metric; `notes` say which are missing."""

    def __init__(self, metrics, truth):
        self.metrics, self.truth, self.notes = metrics, truth, []
        self._cache = {}

    def scores(self, row, key):
        """Return {image: {metric name: value}} of a row's test; None if they are unknown."""
        if (id(row), key) not in self._cache:
            self._cache[id(row), key] = self._compute(row, key)
        return self._cache[id(row), key]

    def mean(self, row, key, metric):
        """Return the mean of a metric over the images of a row's test, or None."""
        if key not in row.tests:
            return None
        if row.run is not None and (metric.name in OWN or metric.name in row.tests[key]):
            return row.tests[key].get(metric.name)
        scores = self.scores(row, key)
        values = [found[metric.name] for found in (scores or {}).values() if metric.name in found]
        return finite_mean(values) if values and len(values) == len(scores) else None

    def _compute(self, row, key):
        own = row.scores(key) if row.run is not None else self._own_of_folder(row, key)
        kept = set().union(*(own or {}).values())
        others = [m for m in self.metrics if m.compute is not None and m.name not in kept]
        if not others:
            return own
        paths = row.sr_paths(key)
        images = list(own or paths)
        recorded = row.tests[key] if row.run is not None else {}
        titles = ", ".join(metric.title for metric in others if metric.name not in recorded)
        problem = f"no {titles} of {row.label} on {key[0]} x{key[1]}: its SR images are"
        if not images or any(image not in paths for image in images):
            self.notes += [f"{problem} not saved (test it with --save_results)"] if titles else []
            return own
        found = {}
        for image in images:
            sr, hr = self.matched(read_image(paths[image]), key, image, row.is_luma)
            if hr is not None and sr.shape[:2] != hr.shape[:2]:
                break
            mine = {} if hr is None else own_scores(sr, hr, key, image)
            if own and mine and not is_same_psnr(own[image]["psnr"], mine["psnr"]):
                break
            found[image] = (own[image] if own else mine) | other_scores(others, sr, hr, image)
        if len(found) < len(images) or not (own or _is_whole_test(row.tests[key], found)):
            problem += " of another test (test it again with --save_results)"
            self.notes += [problem] if titles else []
            return own
        return found

    def matched(self, sr, key, image, is_luma):
        """Return (SR image, HR or None), with the channels in which tests compare them.

        Tests of --n_colors 1 compare Y, the others three channels: gray ones are repeated.
        """
        hr, hr_is_luma = self.truth.hr(key, image), self.truth.is_luma(key)
        if hr is None:
            return sr, None
        if is_luma or hr_is_luma:
            return _to_luma(sr, True), _to_luma(hr, hr_is_luma)
        return to_channels(sr, 3), to_channels(hr, 3)

    def _own_of_folder(self, row, key):
        found = {}
        for image, path in row.sr_paths(key).items():
            sr, hr = self.matched(read_image(path), key, image, row.is_luma)
            if hr is None:
                return None
            check_size(sr, hr, path, "HR")
            found[image] = own_scores(sr, hr, key, path)
        return found

    def fill(self, rows):
        """Fill in mean PSNR and SSIM of the tests of folder rows."""
        for row in rows:
            for key, test in row.tests.items():
                test |= {metric.name: self.mean(row, key, metric) for metric in OWN.values()}


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
    args.scale = [scale]
    net = build_network(args).eval()
    n_parameters = count_parameters(net)
    net.requires_grad_(False)  # the counter adds hooks to what has a gradient
    lr = torch.zeros(1, args.n_colors, SIDE, SIDE)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net(lr, scale) if is_multi_scale(net) else net(lr)
    images = SR_PIXELS / (SIDE * scale) ** 2
    return Cost(n_parameters, counter.get_total_flops() / 2 * images)


class CostTable:
    """Costs of rows, computed once for each experiment and scale."""

    def __init__(self):
        self._found = {}
        self.notes = []

    def cost(self, row, scale):
        """Return the Cost of a row's or a group's network, or None."""
        row = getattr(row, "rows", [row])[0]
        if row.run is None or not row.run.flags:
            return None
        if (row.folder, scale) not in self._found:
            self._found[row.folder, scale] = self._compute(row, scale)
        return self._found[row.folder, scale]

    def _compute(self, row, scale):
        flags = ["--dir_experiment", str(row.folder.parent), "--load", row.folder.name]
        try:
            return cost_of(parse_args([*flags, "--test_only", "--cpu"]), scale)
        except Exception as error:  # networks of others fail in any way
            reason = (str(error).splitlines() or [repr(error)])[0]
            self.notes.append(f"no multiply-adds of {row.run.label} x{scale}: {reason}")
            return None


# ------------------------------------------------------ which images tests share


def tests_of(rows, key):
    """Return the rows that were tested on (dataset, scale), with the members of groups."""
    members = [member for row in rows for member in getattr(row, "rows", [row])]
    return [row for row in dict.fromkeys(members) if key in row.tests]


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
    """Return the frozenset of images that have no finite value of a metric."""
    scores, name = scorer.scores(row, key) or {}, metric.name
    return frozenset(image for image in scores if not math.isfinite(scores[image].get(name, 0)))


def means_are_comparable(rows, key, metric, scorer):
    """Return whether the means of rows are known to be over the same images."""
    lost = {lost_images(row, key, metric, scorer) for row in tests_of(rows, key)}
    return len(lost) <= 1 and mismatch(rows, key, scorer) is None


def common_scores(rows, key, metric, scorer):
    """Return {image: value} of each row (no group), of the images that are finite in all rows.

    None if the scores of a row are unknown.
    """
    tables, name = [scorer.scores(row, key) for row in rows], metric.name
    if None in tables or any(name not in scores for t in tables for scores in t.values()):
        return None
    images = [i for i in tables[0] if all(math.isfinite(table[i][name]) for table in tables)]
    return [{image: table[image][name] for image in images} for table in tables]


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
