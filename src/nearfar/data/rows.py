"""Read a table of CSV or Parquet."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from nearfar.data.columns import BOX, IMAGE, WHOLE, Columns, read_columns
from nearfar.data.folders import PARTS, part_of
from nearfar.data.picture import Picture, box_of, data_of
from nearfar.data.table import Table
from nearfar.errors import DataError
from nearfar.printable import printable

log = logging.getLogger("nearfar")

FLAGS = ("is_query", "is_gallery")
YES_OR_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
Missing = Literal["refuse", "keep"]


class Problems:
    """What is wrong with the rows of a file, told together: the first of each kind, and how many."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.kinds: dict[str, list[tuple[int, str, str]]] = {}

    def add(self, kind: str, row: int, problem: str, advice: str = "") -> None:
        """Note the row of this index; the header is row 1, so the first is row 2."""
        self.kinds.setdefault(kind, []).append((row + 2, problem, advice))

    def refuse(self) -> None:
        """Raise one error for all, if there are any.

        Raises:
            DataError: if there are.
        """
        if not self.kinds:
            return
        told = []
        for kind, found in sorted(self.kinds.items(), key=lambda item: item[1][0][0]):
            row, problem, advice = found[0]
            rows = ", ".join(str(each[0]) for each in found[1:6])
            more = f" ({len(found):,} rows {kind})" if len(found) > 1 else ""
            others = f"; also row{'s' if len(found) > 2 else ''} {rows}" if rows else ""
            told.append(f"row {row}: {problem}{more}{advice}{others}{', …' if len(found) > 6 else ''}.")
        raise DataError(f"{self.file.name}, " + "\n  ".join(told))


def read_rows(file: Path, missing: Missing = "refuse") -> Table:
    """Read a CSV or Parquet file with the columns ``path`` and ``label``, and optionally others.

    Paths are relative to the file. Labels are whole numbers or strings; classes are numbered in the order of
    the numbers, else in ASCII order. A row with a box is that part of its picture. A Parquet file may hold
    the pictures themselves, in a column ``image`` of bytes or, as Hugging Face writes them, of bytes and
    path. Errors name the row as a spreadsheet shows it: the header is row 1.

    Args:
        file: the table.
        missing: "keep" keeps rows whose file does not exist: their pictures are unreadable.

    Raises:
        DataError: if a column is missing or a row cannot be used; all such rows are counted.
    """
    file = Path(os.path.abspath(file))
    if not file.is_file():
        raise DataError(
            f"no such file: '{file}'; give a .csv or .parquet file with the columns path and label."
        )
    columns = read_columns(file)
    texts = columns.texts
    for needed in ("path", "label"):
        if needed not in texts and not (needed == "path" and columns.pictures):
            raise DataError(
                f"{file.name}: no column '{needed}'; found {', '.join(map(repr, texts)) or 'nothing'}. "
                "A table needs the columns path and label."
            )
    if not texts["label"]:
        raise DataError(f"{file.name} has a header but no rows; give one row for each image.")
    problems = Problems(file)
    for row, problem in columns.problems:
        problems.add("have another number of values", row, problem)
    broken = {row for row, _ in columns.problems}
    labels, classes = number_labels(texts.pop("label"), problems, broken)
    boxes = read_box(problems, [texts[name] for name in BOX]) if all(n in texts for n in BOX) else None
    tell_part_of_box(file, texts)
    paths = find_images(file, columns, problems, missing, broken)
    if boxes is not None:
        paths = [Picture(path, box, data_of(path)) for path, box in zip(paths, boxes.tolist(), strict=True)]
    extra = {
        name: typed_column(problems, name, values)
        for name, values in texts.items()
        if name not in (*BOX, "path", "split")
    }
    if "split" in texts:
        extra |= read_split(problems, texts["split"])
    check_duplicates(file, paths, labels, classes, problems)
    problems.refuse()
    if boxes is not None:
        extra["box"] = boxes
    array = np.empty(len(paths), dtype=object)
    array[:] = paths
    return Table(array, labels, classes, extra, source=str(file), name=file.stem)


def tell_part_of_box(file: Path, texts: Mapping[str, list[str]]) -> None:
    """Log a box of which some columns are missing."""
    given = [name for name in BOX if name in texts]
    if 0 < len(given) < len(BOX):
        log.warning(
            "%s: a box needs the columns %s; there is only %s, so whole images are used.",
            printable(file.name),
            ", ".join(BOX),
            ", ".join(given),
        )


def find_images(
    file: Path, columns: Columns, problems: Problems, missing: Missing, broken: set[int]
) -> list[str]:
    """Return absolute paths; the files must exist, or lie in the table."""
    texts, held = columns.texts.get("path"), columns.pictures
    if texts is None:
        assert held is not None
        return [find_held(file, row, data, path, problems, missing) for row, (data, path) in enumerate(held)]
    paths = []
    for row, text in enumerate(texts):
        path = os.path.normpath(os.path.join(file.parent, text))
        paths.append(path)
        if row in broken:
            continue
        if not text:
            problems.add("have no path", row, "no path; every row needs one")
        elif missing == "refuse" and not os.path.isfile(path):
            note_missing(problems, row, path)
    return paths


def find_held(
    file: Path, row: int, data: bytes | None, path: str, problems: Problems, missing: Missing
) -> str:
    """Return the picture that a table holds, or the file that it names."""
    if data is not None:
        return Picture(f"{file}#{row + 2}{f'/{os.path.basename(path)}' if path else ''}", None, data)
    found = os.path.normpath(os.path.join(file.parent, path))
    if not path:
        problems.add("have no picture", row, f"no picture; {IMAGE} needs its bytes or its path")
    elif missing == "refuse" and not os.path.isfile(found):
        note_missing(problems, row, found)
    return found


def note_missing(problems: Problems, row: int, path: str) -> None:
    """Note a row whose file is not there."""
    advice = "; paths are relative to the folder of the table"
    problems.add("name a missing file", row, f"no such file: '{path}'", advice)


def number_labels(
    texts: list[str], problems: Problems, broken: set[int]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels and classes: in the order of the numbers when all are whole, else in ASCII order."""
    numbers = [text for text in texts if text and text.lower() != "nan"]
    whole = bool(numbers) and all(map(WHOLE.fullmatch, set(numbers)))
    for row, text in enumerate(texts):
        # Among numbers "nan" is a missing one; among names it may be bread.
        if (not text or (whole and text.lower() == "nan")) and row not in broken:
            problems.add("have no label", row, "no label; every row needs one")
    if whole:
        texts = [whole_number(text) for text in texts]
    names = set(texts)
    classes = sorted(names, key=lambda name: int(name or 0)) if whole else sorted(names)
    place = {name: label for label, name in enumerate(classes)}
    return np.array([place[text] for text in texts], dtype=np.int64), tuple(classes)


def whole_number(text: str) -> str:
    """Return a whole number as it is usually written, and "" for none."""
    return text.split(".", 1)[0] if WHOLE.fullmatch(text) else ""


def check_duplicates(
    file: Path, paths: Sequence[str], labels: np.ndarray, classes: Sequence[str], problems: Problems
) -> None:
    """Note an image with two labels; log one that is listed twice. Each part of a file is an image."""
    first: dict[tuple[str, object], int] = {}
    repeated = 0
    for row, path in enumerate(paths):
        before = first.setdefault((path, box_of(path)), row)
        if labels[before] != labels[row]:
            problems.add(
                "label an image otherwise than a row before",
                row,
                f"'{path}' is labelled '{classes[labels[row]]}' here and '{classes[labels[before]]}' "
                f"in row {before + 2}; give an image one label",
            )
        repeated += before != row
    if repeated:
        log.warning(
            "%s: images listed more than once: %d; a search for one finds its copy.",
            printable(file),
            repeated,
        )


def typed_column(problems: Problems, name: str, texts: list[str]) -> np.ndarray:
    """Return a column as bool (``is_query``, ``is_gallery``), int64 where all are whole, or strings."""
    if name in FLAGS:
        values = [YES_OR_NO.get(whole_number(text) or text.lower()) for text in texts]
        for row, value in enumerate(values):
            if value is None:
                problems.add(f"have another {name}", row, f"{name} is '{texts[row]}'; expected true or false")
        return np.array(values, dtype=bool)
    if texts and all(map(WHOLE.fullmatch, texts)):
        return np.array([whole_number(text) for text in texts]).astype(np.int64)
    return np.array(texts)


def read_split(problems: Problems, texts: list[str]) -> dict[str, np.ndarray]:
    """Return ``split`` with the names of ``PARTS``; "query" and "gallery" also give the two flags."""
    for row, text in enumerate(texts):
        if part_of(text) is None:
            known = ", ".join(PARTS)
            problems.add("have another split", row, f"split is '{text}'; expected one of {known}")
    part = np.array([text.strip().lower() for text in texts])
    columns = {"split": np.array([PARTS.get(text, "") for text in part])}
    if {"query", "gallery"} & set(part.tolist()):
        columns |= {"is_query": part == "query", "is_gallery": part == "gallery"}
    return columns


def read_box(problems: Problems, columns: list[list[str]]) -> np.ndarray:
    """Return boxes float64 [n, 4] as left, top, right, bottom in pixels; an empty box is refused."""
    boxes = np.zeros((len(columns[0]), 4))
    for row, texts in enumerate(zip(*columns, strict=True)):
        try:
            boxes[row] = [float(text) for text in texts]
        except ValueError:
            words = f"box {', '.join(texts)} is not four numbers (left, top, right, bottom)"
            problems.add("have no box of four numbers", row, words)
            continue
        left, top, right, bottom = boxes[row]
        if not (left < right and top < bottom and np.isfinite(boxes[row]).all()):
            words = f"box {', '.join(texts)} is empty; x_1 < x_2 and y_1 < y_2 are needed"
            problems.add("have an empty box", row, words)
    return boxes
