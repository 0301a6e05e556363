"""Read and write a table as CSV or Parquet."""

import csv
import io
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nearfar.data.folders import PARTS
from nearfar.data.table import Table
from nearfar.errors import DataError, require
from nearfar.files import write_atomically

log = logging.getLogger("nearfar")

BOX = ("x_1", "y_1", "x_2", "y_2")
FLAGS = ("is_query", "is_gallery")
YES_OR_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


def read_rows(file: Path) -> Table:
    """Read a CSV or Parquet file with the columns ``path`` and ``label``, and optionally others.

    Paths are relative to the file. Labels are integers or strings; classes are numbered in the order of the
    integers, else in ASCII order. Errors name the row as a spreadsheet shows it: the header is row 1.

    Raises:
        DataError: if a column is missing or a row cannot be used.
    """
    file = Path(os.path.abspath(file))
    if not file.is_file():
        raise DataError(
            f"no such file: '{file}'; give a .csv or .parquet file with the columns path and label."
        )
    columns = read_parquet(file) if file.suffix.lower() == ".parquet" else read_csv(file)
    for needed in ("path", "label"):
        if needed not in columns:
            raise DataError(
                f"{file.name}: no column '{needed}'; found {', '.join(map(repr, columns)) or 'nothing'}. "
                "A table needs the columns path and label."
            )
    if not columns["path"]:
        raise DataError(f"{file.name} has a header but no rows; give one row for each image.")
    for needed in ("path", "label"):
        for row, text in enumerate(columns[needed]):
            if not text:
                refuse(file, row, f"no {needed}; every row needs one")
    paths = find_images(file, columns.pop("path"))
    labels, classes = number_labels(columns.pop("label"))
    check_duplicates(file, paths, labels, classes)
    extra = {name: typed_column(file, name, values) for name, values in columns.items() if name not in BOX}
    if "split" in columns:
        extra |= read_split(file, columns["split"])
    if all(name in columns for name in BOX):
        extra["box"] = read_box(file, [columns[name] for name in BOX])
    return Table(np.array(paths, dtype=object), labels, classes, extra, source=str(file), name=file.stem)


def read_csv(file: Path) -> dict[str, list[str]]:
    """Return the columns of a CSV file as strings; the separator is a comma, a semicolon or a tab."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8."
        ) from error
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header = [name.strip() for name in next(reader, [])]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{file.name}: column '{twice[0]}' occurs twice; give each column a name of its own.")
    rows = []
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            refuse(file, len(rows), f"{len(row)} values but the header has {len(header)} columns")
        rows.append(row)
    return {name: [row[place].strip() for row in rows] for place, name in enumerate(header)}


def read_parquet(file: Path) -> dict[str, list[str]]:
    """Return the columns of a Parquet file as strings; a missing value is the empty string."""
    parquet = require("pyarrow.parquet", "train")
    try:
        table = parquet.read_table(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file.name} cannot be read as Parquet: {error}") from error
    values = {name: table.column(name).to_pylist() for name in table.column_names}
    return {name: ["" if v is None else str(v) for v in column] for name, column in values.items()}


def refuse(file: Path, row: int, problem: str) -> NoReturn:
    """Raise for the row of this index; the header is row 1, so the first is row 2."""
    raise DataError(f"{file.name}, row {row + 2}: {problem}.")


def find_images(file: Path, texts: list[str]) -> list[str]:
    """Return absolute paths; the files must exist."""
    paths = [os.path.normpath(os.path.join(file.parent, text)) for text in texts]
    missing = [row for row, path in enumerate(paths) if not os.path.isfile(path)]
    if missing:
        others = f" ({len(missing)} rows name a missing file)" if len(missing) > 1 else ""
        refuse(
            file,
            missing[0],
            f"no such file: '{paths[missing[0]]}'{others}; paths are relative to the folder of the table",
        )
    return paths


def number_labels(texts: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels and classes: in the order of the numbers when all are integers, else in ASCII order."""
    names = set(texts)
    classes = sorted(names, key=int) if all(map(INTEGER.fullmatch, names)) else sorted(names)
    place = {name: label for label, name in enumerate(classes)}
    return np.array([place[text] for text in texts], dtype=np.int64), tuple(classes)


def check_duplicates(file: Path, paths: list[str], labels: np.ndarray, classes: Sequence[str]) -> None:
    """Refuse an image with two labels; log one that is listed twice."""
    first: dict[str, int] = {}
    repeated = 0
    for row, path in enumerate(paths):
        before = first.setdefault(path, row)
        if labels[before] != labels[row]:
            refuse(
                file,
                row,
                f"'{path}' is labelled '{classes[labels[row]]}' here and '{classes[labels[before]]}' "
                f"in row {before + 2}; give an image one label",
            )
        repeated += before != row
    if repeated:
        log.warning("%s: images listed more than once: %d; a search for one finds its copy.", file, repeated)


def typed_column(file: Path, name: str, texts: list[str]) -> np.ndarray:
    """Return a column as bool (``is_query``, ``is_gallery``), int64 where all are integers, or strings."""
    if name in FLAGS:
        for row, text in enumerate(texts):
            if text.lower() not in YES_OR_NO:
                refuse(file, row, f"{name} is '{text}'; expected true or false")
        return np.array([YES_OR_NO[text.lower()] for text in texts])
    if all(map(INTEGER.fullmatch, texts)):
        return np.array(texts, dtype=np.int64)
    return np.array(texts)


def read_split(file: Path, texts: list[str]) -> dict[str, np.ndarray]:
    """Return ``split`` with the names of ``PARTS``; "query" and "gallery" also give the two flags."""
    for row, text in enumerate(texts):
        if text not in PARTS:
            refuse(file, row, f"split is '{text}'; expected one of {', '.join(PARTS)}")
    part = np.array(texts)
    columns = {"split": np.array([PARTS[text] for text in texts])}
    if {"query", "gallery"} & set(texts):
        columns |= {"is_query": part == "query", "is_gallery": part == "gallery"}
    return columns


def read_box(file: Path, columns: list[list[str]]) -> np.ndarray:
    """Return boxes float64 [n, 4] as left, top, right, bottom in pixels; an empty box is refused."""
    boxes = np.empty((len(columns[0]), 4))
    for row, texts in enumerate(zip(*columns, strict=True)):
        try:
            boxes[row] = [float(text) for text in texts]
        except ValueError:
            refuse(file, row, f"box {', '.join(texts)} is not four numbers (left, top, right, bottom)")
        left, top, right, bottom = boxes[row]
        if not (left < right and top < bottom):
            refuse(file, row, f"box {', '.join(texts)} is empty; x_1 < x_2 and y_1 < y_2 are needed")
    return boxes


def write_rows(file: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns as CSV or Parquet, by the file's ending."""
    ending = file.suffix.lower()
    if ending == ".csv":
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        write_atomically(file, text.getvalue())
    elif ending == ".parquet":
        arrow, parquet = require("pyarrow", "train"), require("pyarrow.parquet", "train")
        sink = io.BytesIO()
        parquet.write_table(arrow.table(dict(columns)), sink)
        write_atomically(file, sink.getvalue())
    else:
        raise DataError(f"cannot write a table to '{file.name}'; give a name that ends in .csv or .parquet.")
