"""Contact sheet: a picture of a table, classes as rows and their images as columns."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nearfar.data.decode import decode
from nearfar.data.table import Table
from nearfar.errors import DataError, require
from nearfar.files import write_atomically

if TYPE_CHECKING:
    from PIL import Image

_background = (200, 200, 200)  # neutral, so that white objects show
_text = (32, 32, 32)
_gap = 2
_cell = 96
_font_size = 13


def contact_sheet(
    table: Table, file: str | Path, classes: int = 12, per_class: int = 8, seed: int = 0
) -> Path:
    """Draw some classes of ``table`` and write the picture to ``file``.

    Classes are drawn at random, and as evenly as possible from each part of the ``split`` column when there
    is one; the parts are named. Images are shown at the same scale, so that sizes can be compared, but none
    smaller than half its place.

    Args:
        table: the images.
        file: the picture to write; its ending chooses the format (.png, .webp, .jpg).
        classes: rows, at most.
        per_class: columns, at most: the first images of each class.
        seed: of the choice of classes.

    Returns:
        The path of the picture.

    Raises:
        DataError: if the table is empty, or fewer than one row or column is asked for.
    """
    require("PIL", "train")
    from PIL import Image, ImageDraw, ImageFont

    if classes < 1 or per_class < 1:
        raise DataError(
            f"a contact sheet needs at least one row and one column; got {classes} x {per_class}."
        )
    if len(table) == 0:
        raise DataError(f"the table {table.name!r} has no image to show.")
    rows = _choose(table, classes, seed)
    pictures = [
        [decode(path) for path in table.path[np.flatnonzero(table.label == label)[:per_class]]]
        for _, label in rows
    ]
    scale = _cell / max(max(picture.size) for row in pictures for picture in row)
    font = ImageFont.load_default(_font_size)
    names = [_shorten(table.classes[label]) for _, label in rows]
    margin = 12 + int(max(font.getlength(text) for text in [*names, "train"])) + 8
    parts = [part for part, _ in rows]
    line = _font_size + 11
    title = _title(table, parts)
    breaks = sum(1 for place, part in enumerate(parts) if part and (place == 0 or parts[place - 1] != part))
    columns = max(len(row) for row in pictures)
    width = max(margin + columns * (_cell + _gap) + _gap, int(font.getlength(title)) + 24)
    height = line + breaks * line + len(rows) * (_cell + _gap) + _gap
    sheet = Image.new("RGB", (width, height), _background)
    pen = ImageDraw.Draw(sheet)
    pen.text((12, line / 2), title, fill=_text, font=font, anchor="lm")
    top = line
    for place, (part, _) in enumerate(rows):
        if part and (place == 0 or parts[place - 1] != part):
            pen.text((12, top + line / 2), part, fill=_text, font=font, anchor="lm")
            pen.line(
                (12 + font.getlength(part) + 8, top + line / 2, width - 12, top + line / 2), fill=(150,) * 3
            )
            top += line
        pen.text((12, top + _cell / 2), names[place], fill=_text, font=font, anchor="lm")
        for column, picture in enumerate(pictures[place]):
            own = max(scale, _cell / 2 / max(picture.size))
            side = (max(1, round(picture.width * own)), max(1, round(picture.height * own)))
            resample = Image.Resampling.LANCZOS if own < 1 else Image.Resampling.BICUBIC
            left = margin + column * (_cell + _gap)
            sheet.paste(
                picture.resize(side, resample), (left + (_cell - side[0]) // 2, top + (_cell - side[1]) // 2)
            )
        top += _cell + _gap
    return _write(sheet, Path(file))


def _choose(table: Table, classes: int, seed: int) -> list[tuple[str, int]]:
    """(part, label) of the rows, part by part; the part is "" when the table has no split."""
    split = table.columns.get("split")
    parts = [""] if split is None else sorted(set(map(str, split)), key=_part_order)
    random = np.random.default_rng(seed)
    rows: list[tuple[str, int]] = []
    for place, part in enumerate(parts):
        chosen = table.label if split is None else table.label[split == part]
        # What a small part leaves free goes to the parts after it.
        share = (classes - len(rows)) // (len(parts) - place)
        labels = random.permutation(np.unique(chosen))[:share]
        rows += [(part, int(label)) for label in np.sort(labels)]
    return rows


def _part_order(part: str) -> tuple[int, str]:
    known = ("train", "validation", "test")
    return (known.index(part) if part in known else len(known), part)


def _title(table: Table, parts: list[str]) -> str:
    split = table.columns.get("split")
    shown = []
    for part in dict.fromkeys(parts):
        total = table.class_count() if split is None else len(np.unique(table.label[split == part]))
        shown.append(f"{parts.count(part)} of {total} {part + ' ' if part else ''}classes")
    return f"{table.name or 'images'}: {' and '.join(shown)}"


def _shorten(name: str, length: int = 34) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _write(sheet: "Image.Image", file: Path) -> Path:
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    known = Image.registered_extensions()
    if file.suffix.lower() not in known:
        raise DataError(f"{file} does not say what kind of picture to write; end it in .png, .webp or .jpg.")
    written = io.BytesIO()
    sheet.save(written, known[file.suffix.lower()])
    write_atomically(file, written.getvalue())
    return file
