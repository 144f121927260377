"""The saved versions of test images (SR of each method, bicubic, HR), and the page that shows them.

The files of page/ are put together to one file: page.html names the others as {{page.css}}. vendor/
is the web component img-comparison-slider.
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

from checkpoint.metrics import PLAIN, results_dir
from comparison.images import to_rgb8
from comparison.runs import is_same_psnr, printable
from comparison.scoring import check_size, other_pixels
from data.datasets import DEMO_SETS
from data.image import read_image
from runtime.files import UserError, atomic_path, bullet_list

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


def _missing_error(row, key, name, kind):
    """Build the UserError for a missing SR or HR picture, with the command that saves it."""
    if row.run is None:
        return UserError(f"{row.folder} has no SR image of {name}")
    folder, end = results_dir(row.folder, key[0], row.suffix), f"_x{key[1]}_{kind}.png"
    start = f"{folder} has no {name}{end}"
    if have := sorted(path.name.removesuffix(end) for path in folder.glob(f"*{end}")):
        return UserError(f"{start}; the images there:{bullet_list(have)}")
    flags = f"--test_only --data_test {key[0]} --scale {key[1]} --save_results --save_gt"
    how = {k: row.tests.get(key, PLAIN)[k] for k in PLAIN if k != "test_only"}
    flags += "".join(f" --{k} {value}" for k, value in how.items() if value != PLAIN[k])
    if (row.folder / "model/model_latest.pt").is_file():
        parent, own = shlex.quote(str(row.folder.parent)), shlex.quote(row.folder.name)
        command = f"python src/main.py --dir_experiment {parent} --load {own} {flags}"
        return UserError(f"{start}. Save it with: {command}")
    return UserError(f"{start}. Run the test of {row.folder.name} again with {flags}")


def comparable_images(rows, key):
    """Return (rows, names of the images that all of them have saved as SR, notes).

    Rows without images are left out, and those tested on other pixels than the first one.
    """
    kept, notes = [], []
    for row in rows:
        problem = other_pixels([*kept, row], key)
        if problem is None and row.sr_paths(key):
            kept.append(row)
        else:
            reason = problem or f"{row.label} saved no images (--save_results --save_gt)"
            notes.append(f"Images of {key[0]} x{key[1]} are without {row.label}: {reason}")
    tables = [row.sr_paths(key) for row in kept]
    images = [name for name in (tables or [()])[0] if all(name in table for table in tables)]
    return kept, images, notes if images else []


def _panel(label, image, key, name, scorer, row=None):
    """Return a Panel of a row or of bicubic, with scores if there is HR."""
    is_luma = row.is_luma if row else scorer.truth.find(key)[1]
    scores = scorer.image_scores(image, key, name, is_luma, scorer.metrics, label)
    kept = ((row and row.scores(key)) or {}).get(name, {})
    if kept and "psnr" in scores and not is_same_psnr(kept["psnr"], scores["psnr"]):
        label += " (image of another test)"
    texts = [f"{scores[m.name]:.{m.digits}f}" for m in scorer.metrics if m.name in scores]
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
    tested = [row for row in rows if row.run]
    if hr is None and key[0] not in DEMO_SETS and tested:
        raise _missing_error(tested[0], key, name, "HR")
    if bicubic is not None and not any(row.is_bicubic for row in rows):
        panels.append(_panel("bicubic", bicubic, key, name, scorer))
    for row in rows:
        path = row.sr_paths(key).get(name)
        if path is None:
            raise _missing_error(row, key, name, "SR")
        sr = read_image(path)
        if panels:
            check_size(sr, panels[0].image, path, "the others")
        panels.append(_panel(row.label, sr, key, name, scorer, row))
    if hr is not None:
        titles = " / ".join(metric.title for metric in scorer.metrics)
        panels.append(Panel("HR", f"HR\n{titles}", to_rgb8(hr), is_hr=True))
    return Picture(key, name, panels)


def _encode(image, quality):
    """Return an image (H, W, 3) uint8 as a data URI, lossless without a quality."""
    out = io.BytesIO()
    kind = "webp" if max(image.shape[:2]) <= MAX_WEBP_SIDE else "png"
    options = {"quality": quality, "method": 4} if quality else {"lossless": True, "quality": 40}
    Image.fromarray(image).save(out, kind, **(options if kind == "webp" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def _table_entry(table):
    """Return the entry of a tables.Table."""
    rows = [[cell._asdict() | {"text": cell.whole} for cell in row] for row in table.rows]
    title, notes = table.title or "Scores", table.rank_notes + table.notes
    return {"title": title, "columns": table.headings, "rows": rows, "notes": notes}


def _image_entry(picture, first_source):
    """Return the entry of a picture whose panels have the data of the next sources."""
    versions, labels = [], []
    for i, panel in enumerate(picture.panels, first_source):
        n = labels.count(panel.label) + 1  # the page finds versions by their label
        labels.append(panel.label)
        label = f"{panel.label} ({n})" if n > 1 else panel.label
        scores = {name: value for name, value in panel.scores.items() if math.isfinite(value)}
        versions.append({"label": label, "source": i, "isHr": panel.is_hr, "scores": scores})
    height, width = picture.panels[-1].image.shape[:2]
    entry = {"name": printable(picture.name), "title": picture.title, "versions": versions}
    return entry | {"width": width, "height": height}


def write_page(path, title, tables, metrics, pictures, count, quality=None):
    """Write the page atomically. `pictures` yields `count` Pictures, written as they are read."""

    def fill(match):
        return html.escape(title) if match[1] == "title" else read(match[1])

    def read(name):
        return (PAGE / name).read_text(encoding="utf-8")

    # names inside the inserted texts are left alone
    parts = read("page.html").split("{{data}}")
    head, tail = (re.sub(r"\{\{(.+?)\}\}", fill, part) for part in parts)
    entries, n_sources = [], 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(head)
        for picture in tqdm(pictures, total=count, unit="image", disable=None, leave=False):
            entries.append(_image_entry(picture, n_sources))
            for panel in picture.panels:
                uri = _encode(panel.image, quality)
                file.write(f'<script type="text/plain" id="picture-{n_sources}">{uri}</script>\n')
                n_sources += 1
        methods = [v["label"] for entry in entries for v in entry["versions"] if not v["isHr"]]
        data = {
            "tables": [_table_entry(table) for table in tables],
            "images": entries,
            "metrics": [{"name": m.name, "title": m.title, "digits": m.digits} for m in metrics],
            "methods": list(dict.fromkeys(methods)),
        }
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text = text.replace("<", "\\u003c")  # it stands in a <script>
        file.write(f'<script type="application/json" id="data">{text}</script>{tail}')
