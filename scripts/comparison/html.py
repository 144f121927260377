"""The page of --html: one file with all images, style and script.

The files of page/ are put together: page.html is the frame, page.css the style, page.js the
program, vendor/ the web component img-comparison-slider with its license.
"""

import base64
import html
import io
import json
import re
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from comparison.common import ranks
from comparison.tables import (
    NOT_TESTED,
    UNKNOWN,
    cost_texts,
    format_number,
    keys_of,
    score_notes,
)
from runtime.files import atomic_path

PAGE = Path(__file__).resolve().parent / "page"
MAX_WEBP_SIDE = 16_383


def _encode(image, quality):
    """Return an image (H, W, 3) uint8 as a data URI.

    The format is WebP, lossless without a quality.
    """
    out = io.BytesIO()
    kind = "webp" if max(image.shape[:2]) <= MAX_WEBP_SIDE else "png"
    options = {"quality": quality, "method": 4} if quality else {"lossless": True, "quality": 40}
    Image.fromarray(image).save(out, kind, **(options if kind == "webp" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def _json(value):
    """Return JSON that can stand in a <script>."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _finite(scores):
    return {name: value for name, value in scores.items() if value == value and abs(value) < 1e30}


def _score_rows(rows, scorer, costs, names):
    """Yield the cells of each row and scale: {"text", "value", "rank"}, the value for sorting."""
    for scale in sorted({scale for row in rows for _, scale in row.tests}):
        tested = [row for row in rows if any(other == scale for _, other in row.tests)]
        keys = [(name, scale) for name in names]
        columns = [
            _column(tested, key, metric, scorer) for key in keys for metric in scorer.metrics
        ]
        for row in tested:
            cells = [{"text": row.label}, {"text": f"x{scale}", "value": scale}]
            if costs:
                cost = costs.cost(row, scale)
                pairs = zip(cost_texts(cost), cost or (None, None), strict=True)
                cells += [{"text": text, "value": value} for text, value in pairs]
            yield cells + [column[id(row)] for column in columns]


def _column(rows, key, metric, scorer):
    """Return {row id: cell} of a set and a metric."""
    means = {id(row): scorer.mean(row, key, metric) for row in rows}
    texts = {i: format_number(mean, f".{metric.digits}f") for i, mean in means.items()}
    known = {i: texts[i] for i, mean in means.items() if mean is not None}
    places = ranks(known, rows, key, metric, scorer)
    names = {i: ("best", "second")[place] for i, place in places.items()}
    return {i: {"text": texts[i], "value": means[i], "rank": names.get(i, "")} for i in means}


def _score_table(comparison):
    """Return the table of scores: title, columns, rows of {"text", "value", "rank"}, and notes."""
    rows, scorer, costs = comparison.all_rows, comparison.scorer, comparison.costs
    names = list(dict.fromkeys(name for name, _ in keys_of(rows)))
    columns = ["method", "scale", *(["parameters", "multiply-adds"] if costs else [])]
    first = len(columns)
    columns += [f"{name} {metric.title}" for name in names for metric in scorer.metrics]
    lines = list(_score_rows(rows, scorer, costs, names))
    has_scores = any(cell.get("value") is not None for row in lines for cell in row[first:])
    notes = ["The best value is bold, the second underlined", *score_notes(rows, scorer, costs)]
    lines = lines if has_scores else []
    return {"title": "Scores", "columns": columns, "rows": lines, "notes": notes}


def _text_cell(text):
    """Return the cell of a text; its value is the number that it begins with."""
    number = re.fullmatch(r"([+-]?[\d,]*\d(?:\.\d+)?)(| [KG]| [±/(].*)", text)
    if number:
        return {"text": text, "value": float(number[1].replace(",", ""))}
    return {"text": text} | ({"value": None} if text in (NOT_TESTED, UNKNOWN) else {})


def _further_table(table):
    """Return a `tables.Table` in the form of `_score_table`."""
    columns, *rows = table.cells
    lines = [[{"text": row[0]}, *map(_text_cell, row[1:])] for row in rows]
    return {"title": table.title, "columns": columns, "rows": lines, "notes": table.notes}


def _image_entry(picture, first_source):
    height, width = picture.panels[-1].image.shape[:2]
    versions = [
        {"label": panel.label, "source": first_source + i, "isHr": panel.is_hr,
         "scores": _finite(panel.scores)}
        for i, panel in enumerate(picture.panels)
    ]  # fmt: skip
    entry = {"name": picture.name, "title": picture.title, "width": width, "height": height}
    return {**entry, "versions": versions}


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


def write(path, comparison, further, pictures, count, quality=None):
    """Write the page atomically.

    Args:
        path: a Path.
        comparison: compare.Comparison.
        further: list of tables.Table, shown below that of the scores.
        pictures: iterable of pictures.Picture, read one at a time.
        count: their number.
        quality: of lossy images, 1 to 100; None: lossless.
    """

    def read(name):
        return (PAGE / name).read_text(encoding="utf-8")

    found = [_score_table(comparison), *map(_further_table, further)]
    sets = [comparison.data_test] if comparison.data_test else []
    labels = [source.label for source in [*comparison.every_run, *comparison.folders]]
    title = "Comparison of " + ", ".join(labels)
    texts = {
        "TITLE": html.escape(" on ".join([title, *sets])),
        "STYLE": read("vendor/img-comparison-slider.css") + read("page.css"),
        "LICENSE": html.escape(read("vendor/img-comparison-slider.LICENSE")),
        "SLIDER": read("vendor/img-comparison-slider.js"),
        "SCRIPT": read("page.js"),
    }
    frame = read("page.html")
    head, tail = frame.split('<script type="application/json" id="data">{{DATA}}</script>')
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(_fill(head, texts))
        entries = _write_pictures(file, pictures, count, quality)
        methods = [v["label"] for entry in entries for v in entry["versions"] if not v["isHr"]]
        metrics = [
            {"name": m.name, "title": m.title, "digits": m.digits}
            for m in comparison.scorer.metrics
        ]
        data = {"tables": [table for table in found if table["rows"]]}
        data |= {"images": entries, "metrics": metrics}
        data["methods"] = list(dict.fromkeys(methods))
        file.write(f'<script type="application/json" id="data">{_json(data)}</script>')
        file.write(_fill(tail, texts))


def _fill(frame, texts):
    """Replace each {{NAME}} of a frame; names inside the inserted texts are left alone."""
    parts = frame.replace("{{PICTURES}}", "").split("{{")
    filled = [parts[0]]
    for part in parts[1:]:
        name, rest = part.split("}}", 1)
        filled += [texts[name], rest]
    return "".join(filled)
