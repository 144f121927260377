"""The images that several tests share: whether their means can be compared, and over what.

Tables, ranks, gains and groups all ask here. "Rows" are rows or groups; a group stands for its
members.
"""

import math


def tests_of(rows, key):
    """Return the rows that were tested on (dataset, scale), with the members of groups."""
    members = [member for row in rows for member in getattr(row, "rows", [row])]
    return [row for row in dict.fromkeys(members) if key in row.tests]


def plural(count, noun):
    """Return "1 image" or "2 images"; a count of None is unknown."""
    return f"{'?' if count is None else count} {noun}{'' if count == 1 else 's'}"


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
    return None


def lost_images(row, key, metric, scorer):
    """Return the frozenset of images that have no finite value of a metric."""
    scores = scorer.scores(row, key) or {}
    name = metric.name
    return frozenset(image for image in scores if not math.isfinite(scores[image].get(name, 0)))


def means_are_comparable(rows, key, metric, scorer):
    """Return whether the means of rows are known to be over the same images."""
    lost = {lost_images(row, key, metric, scorer) for row in tests_of(rows, key)}
    return len(lost) <= 1 and mismatch(rows, key, scorer) is None


def common_scores(rows, key, metric, scorer):
    """Return the scores of the images whose value is finite in all rows.

    Args:
        rows: rows, not groups, without a `mismatch`.
        key: (dataset, scale).
        metric: Metric.
        scorer: scoring.Scorer.

    Returns:
        {image: value} of each row; None if the scores of a row are unknown.
    """
    tables, name = [scorer.scores(row, key) for row in rows], metric.name
    if None in tables or any(name not in scores for t in tables for scores in t.values()):
        return None
    images = [i for i in tables[0] if all(math.isfinite(table[i][name]) for table in tables)]
    return [{image: table[image][name] for image in images} for table in tables]


def ranks(texts, rows, key, metric, scorer):
    """Return {row id: 0 or 1} of the best and the second mean.

    Means that are not comparable have no rank: {}.

    Args:
        texts: {row id: mean as it is printed}; values that are printed alike share a rank.
        rows, key, metric, scorer: as for `means_are_comparable`.
    """
    grades = {i: round(metric.distance(float(text)), metric.digits) for i, text in texts.items()}
    order = sorted(set(grades.values()))
    if len(order) < 2 or not means_are_comparable(rows, key, metric, scorer):
        return {}
    return {i: order.index(grade) for i, grade in grades.items() if grade in order[:2]}


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
                    total = plural(len(scorer.scores(row, key)), "image")
                    has, name = "has" if n_lost == 1 else "have", metric.title.split(" (")[0]
                    notes.append(
                        f"{row.label} on {where}: {n_lost} of {total} {has} no finite {name}"
                    )
    return notes
