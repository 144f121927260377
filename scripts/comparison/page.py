"""The page of --html: one file with all images, style and script.

The files of page/ are put together: page.html is the frame, page.css the style, page.js the
program, vendor/ the web component img-comparison-slider with its license.
"""

import base64
import html
import io
import json
import math
import re
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from comparison.runs import printable
from runtime.files import atomic_path

PAGE = Path(__file__).resolve().parent / "page"
MAX_WEBP_SIDE = 16_383


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


def write(path, title, tables, metrics, pictures, count, quality=None):
    """Write the page atomically, with lists of tables.Table and of Metric.

    Args:
        pictures: iterable of pictures.Picture, read one at a time; `count` is their number.
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
