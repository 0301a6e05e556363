"""The page of offline mining: what is hard to tell apart, and what may be one thing under two labels."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from nearfar import __version__
from nearfar.data.table import Table
from nearfar.errors import require
from nearfar.files import write_atomically
from nearfar.offline import Mined
from nearfar.printable import written
from nearfar.report.decoding import Small
from nearfar.report.figures import NARROW, percent
from nearfar.report.queries import one_a_class
from nearfar.report.sections import PHONE, WIDE, Figure, Gallery, Tile
from nearfar.report.svg import Drawing

PAGE = "mine.html"
ROWS, CARDS, SIDE = 8, 12, 96
NAMES = {"hard": "a hard negative", "semi_hard": "a semi-hard one at most", "easy": "only easy ones"}


def summarise_mined(mined: Mined, table: Table) -> dict[str, Any]:
    """Return the numbers of the page; all of it can be written as JSON.

    Args:
        mined: what was found.
        table: the images that were mined, row for row.
    """
    alone = ~mined.nearest_positive.there
    hard = mined.hard.there
    semi_hard = mined.semi_hard.there & ~hard
    names = table.classes
    with np.errstate(invalid="ignore"):  # an image that is alone has no nearest positive: NaN
        wrong_first = mined.negative_similarity[:, 0] > mined.nearest_positive.similarity
    return {
        "images": len(table),
        "classes": table.class_count(),
        "margin": mined.margin,
        "triplets": {
            "easy": mined.triplets.easy,
            "semi_hard": mined.triplets.semi_hard,
            "hard": mined.triplets.hard,
        },
        "pictures": {
            "hard": int(hard.sum()),
            "semi_hard": int(semi_hard.sum()),
            "easy": int((~hard & ~semi_hard & ~alone).sum()),
            "alone": int(alone.sum()),
        },
        "wrong_first": int(wrong_first.sum()),
        "threshold": None if np.isinf(mined.suspects.threshold) else mined.suspects.threshold,
        "suspects": [
            {
                "images": [str(table.path[row]) for row in pair],
                "classes": [names[table.label[row]] for row in pair],
                "similarity": round(min(float(value), 1.0), 4),
                "mutual": bool(mutual),
            }
            for pair, value, mutual in zip(
                mined.suspects.pairs, mined.suspects.similarity, mined.suspects.mutual, strict=True
            )
        ],
        "confusions": [
            {
                "classes": [names[label] for label in each.labels],
                "count": each.count,
                "of": each.of,
                "similarity": round(each.similarity, 4),
            }
            for each in mined.confusions()
        ],
    }


def write_mined(
    mined: Mined,
    table: Table,
    summary: Mapping[str, Any],
    folder: str | Path,
    *,
    source: str = "",
    small: Small | None = None,
) -> Path:
    """Write ``mine.html``, one page that needs nothing else.

    Args:
        mined: what was found.
        table: the images that were mined, row for row.
        summary: from ``summarise_mined``.
        folder: to write into.
        source: the run, in words for the head of the page.
        small: small copies of the images that were decoded already.

    Returns:
        The path of the page.
    """
    jinja2 = require("jinja2", "train")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nearfar.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": lambda value: f"{value:,}"}
    styles = files("nearfar.report") / "templates"
    gallery = Gallery(table, small)
    page = environment.get_template("mined.html").render(
        css="".join((styles / name).read_text(encoding="utf-8") for name in ("report.css", "mined.css")),
        version=__version__,
        source=source,
        summary=summary,
        figure=kinds_figure(summary["pictures"]),
        suspects=suspect_cards(mined, gallery),
        hard=hard_rows(mined, gallery),
        semi_hard=semi_hard_cards(mined, gallery),
        confusions=confusion_cards(mined, gallery),
        crisp=gallery.thumbnails.crisp,
        side=gallery.thumbnails.shown(SIDE),
    )
    path = Path(folder) / PAGE
    write_atomically(path, written(page))
    return path


def kinds_figure(pictures: Mapping[str, int]) -> Figure:
    """One bar of all pictures by the hardest negative that each has."""
    total = sum(pictures[kind] for kind in NAMES)
    share = pictures["hard"] / total if total else 0.0
    title = f"{percent(share, 0)} of the pictures have a hard negative"
    return Figure(title, _kinds(pictures, WIDE, title), _kinds(pictures, PHONE, title))


def _kinds(pictures: Mapping[str, int], width: float, title: str) -> str:
    narrow = width < NARROW
    total = max(sum(pictures[kind] for kind in NAMES), 1)
    drawing = Drawing(width, 44 + 26 * len(NAMES) if narrow else 92, title)
    left, gap = 0.0, 2.0
    for place, (kind, words) in enumerate(NAMES.items()):
        count = pictures[kind]
        end = left + width * count / total
        told = f"{words}: {count:,}, {percent(count / total)}"
        if count:
            drawing.bar(left, 0, max(end - left - gap, 1.0), 32, f"kind {kind}", told)
        if narrow:
            drawing.bar(0, 50 + 26 * place, 12, 12, f"kind {kind}")
            drawing.text(20, 61 + 26 * place, told, kind="small")
        else:
            column = width * place / len(NAMES)
            drawing.bar(column, 51, 14, 14, f"kind {kind}")
            drawing.text(column + 22, 64, words, kind="name")
            many = "1 picture" if count == 1 else f"{count:,} pictures"
            drawing.text(column + 22, 85, f"{many}, {percent(count / total)}", kind="small")
        left = end
    return drawing.render("kinds")


def suspect_cards(mined: Mined, gallery: Gallery) -> list[dict[str, Any]]:
    """The suspect pairs side by side: first those that are each other's nearest negative."""
    found = mined.suspects
    order = np.lexsort((-found.similarity, ~found.mutual))[:CARDS]
    return [
        {
            "first": gallery.query(int(found.pairs[place, 0]), SIDE),
            "second": gallery.query(int(found.pairs[place, 1]), SIDE),
            "similarity": f"{min(float(found.similarity[place]), 1.0):.3f}",
            "files": [Path(gallery.table.path[row]).name for row in found.pairs[place]],
        }
        for place in order
    ]


def hard_rows(mined: Mined, gallery: Gallery, count: int = ROWS, shown: int = 6) -> list[dict[str, Any]]:
    """The anchors whose hard negative is farthest ahead of their own class, one a class while there are."""
    rows = np.flatnonzero(mined.hard.there)
    ahead = mined.hard.similarity[rows] - mined.nearest_positive.similarity[rows]
    chosen = one_a_class(rows[np.argsort(-ahead, kind="stable")], mined.labels, count)
    return [
        {
            "anchor": gallery.query(row, SIDE),
            "own": _own(mined, gallery, row),
            "others": [
                _tile(gallery, int(other), float(value), False)
                for other, value in zip(mined.negatives[row], mined.negative_similarity[row], strict=True)
                if other >= 0 and value < mined.suspects.threshold
            ][:shown],
        }
        for row in chosen
    ]


def _own(mined: Mined, gallery: Gallery, row: int) -> list[Tile]:
    """The nearest and the farthest positive, once if they are one."""
    near, far = mined.nearest_positive, mined.farthest_positive
    tiles = [_tile(gallery, int(near.row[row]), float(near.similarity[row]), True)]
    if far.row[row] != near.row[row]:
        tiles.append(_tile(gallery, int(far.row[row]), float(far.similarity[row]), True))
    return tiles


def semi_hard_cards(mined: Mined, gallery: Gallery, count: int = 6) -> list[dict[str, Any]]:
    """Anchors with their farthest positive and semi-hard negative, those of the smallest gap first."""
    rows = np.flatnonzero(mined.semi_hard.there & ~mined.hard.there)
    gap = mined.farthest_positive.similarity[rows] - mined.semi_hard.similarity[rows]
    chosen = one_a_class(rows[np.argsort(gap, kind="stable")], mined.labels, count)
    far, other = mined.farthest_positive, mined.semi_hard
    return [
        {
            "anchor": gallery.query(row, SIDE),
            "positive": _tile(gallery, int(far.row[row]), float(far.similarity[row]), True),
            "negative": _tile(gallery, int(other.row[row]), float(other.similarity[row]), False),
        }
        for row in chosen
    ]


def confusion_cards(mined: Mined, gallery: Gallery) -> list[dict[str, Any]]:
    """The pairs of classes with most hard negatives in each other, with the two pictures most alike."""
    return [
        {
            "first": gallery.query(each.rows[0], SIDE),
            "second": gallery.neighbour(each.rows[1], each.similarity, False, SIDE),
            "count": each.count,
            "of": each.of,
        }
        for each in mined.confusions()[:CARDS]
    ]


def _tile(gallery: Gallery, row: int, similarity: float, right: bool) -> Tile:
    return gallery.neighbour(row, similarity, right, SIDE)


def told_in_lines(summary: Mapping[str, Any]) -> Sequence[tuple[str, str, str]]:
    """The triplets of each kind as a table: kind, how many, share of all."""
    triplets = summary["triplets"]
    total = max(sum(triplets.values()), 1)
    return [
        (kind.replace("_", "-"), f"{triplets[kind]:,}", percent(triplets[kind] / total, 2))
        for kind in ("hard", "semi_hard", "easy")
    ]
