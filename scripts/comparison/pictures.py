"""The saved versions of test images (SR of each method, bicubic, HR), and the page that shows them.

The files of page/ are put together to one file of --html: page.html is the frame, page.css the
style, page.js the program, vendor/ the web component img-comparison-slider with its license.
"""

import base64
import html
import io
import json
import math
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from comparison.images import to_rgb8
from comparison.runs import printable
from comparison.scoring import check_size, is_same_psnr, other_pixels, other_scores, own_scores
from data.datasets import DEMO_SETS
from data.image import read_image
from runtime.files import UserError, atomic_path

PAGE = Path(__file__).resolve().parent / "page"
MAX_WEBP_SIDE = 16_383


class Panel(NamedTuple):
    """One version of an image."""

    label: str  # name of the method; "bicubic" and "HR" besides
    text: str  # label and scores, in two lines
    image: np.ndarray  # (H, W, 3) uint8
    scores: dict = {}  # {metric name: value}; {} without HR
    is_hr: bool = False
    is_bicubic: bool = False


class Picture(NamedTuple):
    """A test image in all versions; HR, if known, is the last panel."""

    key: tuple
    name: str
    panels: list

    @property
    def hr(self):
        """The HR image, or None."""
        return self.panels[-1].image if self.panels[-1].is_hr else None

    @property
    def compared(self):
        """The images whose differences matter: without bicubic if there are two others."""
        methods = [panel for panel in self.panels if not panel.is_hr]
        networks = [panel for panel in methods if not panel.is_bicubic]
        return [panel.image for panel in (networks if len(networks) > 1 else methods)]

    @property
    def title(self):
        """The name with set and scale."""
        return printable(f"{self.name} ({self.key[0]} x{self.key[1]})")


def missing_error(row, data_test, name, scale=None):
    """Build the UserError for a missing picture, with the command that saves it."""
    folder, kind = row.results((data_test, scale)), name.rpartition("_")[2]
    stems = sorted(path.stem for path in folder.glob(f"*{kind}"))
    have = [re.sub(r"_x(\d+)_[A-Z]+$", r" (x\1)", stem) for stem in stems]
    start = f"{folder} has no {name}"
    if have:
        more = ", ..." if len(have) > 20 else ""
        return UserError(f"{start}; the images there: {', '.join(have[:20])}{more}")
    flags = f"--test_only --data_test {data_test}" + (f" --scale {scale}" if scale else "")
    flags += " --save_results --save_gt"
    if (row.folder / "model/model_latest.pt").is_file():
        parent, own = shlex.quote(str(row.folder.parent)), shlex.quote(row.folder.name)
        command = f"python src/main.py --dir_experiment {parent} --load {own} {flags}"
        return UserError(f"{start}. Save it with: {command}")
    return UserError(f"{start}. Run the test of {row.folder.name} again with {flags}")


def saved_scales(rows, data_test, image=None):
    """Return the sorted scales at which rows have pictures of a set, or of one of its images."""
    scales = set()
    for row in rows:
        if row.run is None:
            if row.key[0] == data_test and (image is None or image in row.sr_paths(row.key)):
                scales.add(row.key[1])
            continue
        for path in row.results((data_test, None)).glob("*.png"):
            match = re.fullmatch(r"(.*)_x(\d+)_(SR|HR)", path.stem)
            if match and image in (None, match[1]):
                scales.add(int(match[2]))
    return sorted(scales)


def find_key(rows, data_test, image, scale=None):
    """Return (data_test, scale) of an image that was saved at a single scale."""
    scales = [found for found in saved_scales(rows, data_test, image) if scale in (None, found)]
    if len(scales) > 1:
        numbers = ", ".join(map(str, scales))
        raise UserError(f"{data_test} {image} was saved at the scales {numbers}: give --scale")
    if scales:
        return data_test, scales[0]
    for row in rows:
        if row.run is not None:
            raise missing_error(row, data_test, f"{image}_x{scale or 'S'}_HR.png", scale)
    raise UserError(f"no folder of --images has an SR image of {image}")


def picture_sources(runs, groups, folders, key):
    """Return the rows with saved images of a set: of each run, of one run of each group, folders.

    `groups` are lists of Run; a scale of None in (dataset, scale) is any.
    """
    found = [row for run in runs for row in run.picture_rows(key)]
    for members in groups:
        saved = [run for run in members if any(row.sr_paths(key) for row in run.rows)]
        first = (saved or members)[0]
        known = {row.folder for row in found}
        found += first.picture_rows(key) if first.folder not in known else []
    return found + list(folders)


def comparable_rows(rows, key):
    """Return (rows with saved images of the pixels that the first one was tested on, notes)."""
    kept, notes = [], []
    for row in rows:
        problem = other_pixels([*kept, row], key)
        if problem is None and row.sr_paths(key):
            kept.append(row)
        else:
            reason = problem or f"{row.label} saved no images (--save_results --save_gt)"
            notes.append(f"Images of {key[0]} x{key[1]} are without {row.label}: {reason}")
    return kept, notes


def saved_images(rows, key):
    """Return the names of images that every row has as SR, in order."""
    tables = [row.sr_paths(key) for row in rows]
    return [name for name in tables[0] if all(name in table for table in tables)] if tables else []


def _panel(label, image, key, name, scorer, row=None):
    """Return a Panel of a row or of bicubic, with scores if there is HR."""
    is_luma = row.is_luma if row else scorer.truth.is_luma(key)
    matched = scorer.matched(image, key, name, is_luma)
    scores = own_scores(*matched, key, name) if matched[1] is not None else {}
    scores |= other_scores(scorer.metrics, *matched, label)
    kept = row.scores(key) if row and row.run else None
    if kept and name in kept and scores and not is_same_psnr(kept[name]["psnr"], scores["psnr"]):
        label += " (image of another test)"
    known = [metric for metric in scorer.metrics if metric.name in scores]
    texts = [f"{scores[metric.name]:.{metric.digits}f}" for metric in known]
    text = "\n".join([label, " / ".join(texts)] if texts else [label])
    return Panel(label, text, to_rgb8(image), scores, is_bicubic=row is None or row.is_bicubic)


def load_picture(rows, scorer, key, name):
    """Return the Picture of an image: panels of bicubic, each row and HR, as far as they exist.

    Scores are of the whole saved 8-bit image, as tests compute them.
    """
    if problem := other_pixels(rows, key):
        raise UserError(f"{key[0]} x{key[1]}: {problem}: not comparable")
    truth, panels = scorer.truth, []
    hr, bicubic = truth.hr(key, name), truth.bicubic(key, name)
    tested = [row for row in rows if row.run is not None]
    if hr is None and key[0] not in DEMO_SETS and tested:
        raise missing_error(tested[0], key[0], f"{name}_x{key[1]}_HR.png", key[1])
    if bicubic is not None and not any(row.is_bicubic for row in rows):
        fits = hr is None or bicubic.shape[:2] == hr.shape[:2]
        panels += [_panel("bicubic", bicubic, key, name, scorer)] if fits else []
    for row in rows:
        path = row.sr_paths(key).get(name)
        if path is None and row.run is None:
            raise UserError(f"{row.folder} has no SR image of {name}")
        if path is None:
            raise missing_error(row, key[0], f"{name}_x{key[1]}_SR.png", key[1])
        sr = read_image(path)
        expected = hr if hr is not None else panels[0].image if panels else sr
        check_size(sr, expected, path, "the others")
        panels.append(_panel(row.label, sr, key, name, scorer, row))
    if hr is not None:
        titles = " / ".join(metric.title for metric in scorer.metrics)
        panels.append(Panel("HR", f"HR\n{titles}", to_rgb8(hr), is_hr=True))
    return Picture(key, name, panels)


# ------------------------------------------------------------------ page


def _encode(image, quality):
    """Return an image (H, W, 3) uint8 as a data URI, lossless without a quality."""
    out = io.BytesIO()
    kind = "webp" if max(image.shape[:2]) <= MAX_WEBP_SIDE else "png"
    options = {"quality": quality, "method": 4} if quality else {"lossless": True, "quality": 40}
    Image.fromarray(image).save(out, kind, **(options if kind == "webp" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def _json(value):
    """Return JSON that can stand in a <script>."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _table_entry(table):
    """Return a tables.Table for the page; a cell without a value is sorted by its text."""

    def entry(cell):
        value = {} if cell.value == cell.text else {"value": cell.value}
        return {"text": cell.whole, "rank": cell.rank} | value

    return table._asdict() | {"rows": [list(map(entry, row)) for row in table.rows]}


def _unique(labels):
    """Return labels that differ: the page finds versions by their label."""
    found = []
    for label in labels:
        numbered = (f"{label} ({n})" if n > 1 else label for n in range(1, len(labels) + 1))
        found.append(next(name for name in numbered if name not in found))
    return found


def _image_entry(picture, first_source):
    height, width = picture.panels[-1].image.shape[:2]
    labels = _unique([panel.label for panel in picture.panels])
    versions = []
    for i, (label, panel) in enumerate(zip(labels, picture.panels, strict=True), first_source):
        scores = {name: value for name, value in panel.scores.items() if math.isfinite(value)}
        versions.append({"label": label, "source": i, "isHr": panel.is_hr, "scores": scores})
    entry = {"name": printable(picture.name), "title": picture.title, "versions": versions}
    return entry | {"width": width, "height": height}


def _write_pictures(file, pictures, count, quality):
    """Write each image as it is read; return the entries of the page's data."""
    entries, n_sources = [], 0
    for picture in tqdm(pictures, total=count, unit="image", disable=None, leave=False):
        entries.append(_image_entry(picture, n_sources))
        for panel in picture.panels:
            uri = _encode(panel.image, quality)
            file.write(f'<script type="text/plain" id="picture-{n_sources}">{uri}</script>\n')
            n_sources += 1
    return entries


def write_page(path, title, tables, metrics, pictures, count, quality=None):
    """Write the page atomically, with lists of tables.Table and of Metric.

    Args:
        pictures: iterable of Picture, read one at a time; `count` is their number.
        quality: of lossy images, 1 to 100; None: lossless.
    """

    def read(name):
        return (PAGE / name).read_text(encoding="utf-8")

    texts = {
        "TITLE": html.escape(title),
        "STYLE": read("vendor/img-comparison-slider.css") + read("page.css"),
        "LICENSE": html.escape(read("vendor/img-comparison-slider.LICENSE")),
        "SLIDER": read("vendor/img-comparison-slider.js"),
        "SCRIPT": read("page.js"),
    }
    # names inside the inserted texts are left alone
    head, tail = (
        re.sub(r"\{\{(\w+)\}\}", lambda match: texts[match[1]], part)
        for part in read("page.html").split("{{DATA}}")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(head)
        entries = _write_pictures(file, pictures, count, quality)
        methods = [v["label"] for entry in entries for v in entry["versions"] if not v["isHr"]]
        data = {
            "tables": [_table_entry(table) for table in tables],
            "images": entries,
            "metrics": [{"name": m.name, "title": m.title, "digits": m.digits} for m in metrics],
            "methods": list(dict.fromkeys(methods)),
        }
        file.write(f'<script type="application/json" id="data">{_json(data)}</script>{tail}')
