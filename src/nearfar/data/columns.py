"""Read the columns of a CSV or Parquet file, as texts."""

import csv
import io
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nearfar.errors import DataError, require, suggest
from nearfar.printable import printable

log = logging.getLogger("nearfar")

BOX = ("x_1", "y_1", "x_2", "y_2")
KNOWN = (
    "path",
    "label",
    "split",
    "is_query",
    "is_gallery",
    "group",
    "camera",
    "sequence",
    "id",
    *BOX,
)
IMAGE = "image"
WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0+)?")
PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@dataclass
class Columns:
    """The columns of a file.

    Attributes:
        texts: every value as text; the empty one is missing.
        pictures: where the file itself holds the pictures: (bytes, path) of each, one of which may be
            missing.
        problems: rows that cannot be read, each by its index.
    """

    texts: dict[str, list[str]]
    pictures: list[tuple[bytes | None, str]] | None = None
    problems: list[tuple[int, str]] = field(default_factory=list)


def read_columns(file: Path) -> Columns:
    """Read a file by its ending; columns of no use are told.

    Raises:
        DataError: if the file cannot be read.
    """
    columns = read_parquet(file) if file.suffix.lower() == ".parquet" else read_csv(file)
    others = [name for name in columns.texts if name not in KNOWN]
    if others:
        hints = [f"'{printable(name)}'{suggest(name.lower(), list(KNOWN))}" for name in others[:8]]
        log.warning(
            "%s: columns that nothing is known of are kept, and not used unless a setting names them: %s%s.",
            printable(file.name),
            ", ".join(hints),
            ", …" if len(others) > 8 else "",
        )
    return columns


def known_name(name: str, names: Sequence[str]) -> str:
    """Return the known name that a column means, whatever its case, unless another column has that name."""
    known = name.strip().lower()
    return known if known in (*KNOWN, IMAGE) and known not in names else name.strip()


def read_csv(file: Path) -> Columns:
    """Read a CSV file; the separator is a comma, a semicolon or a tab."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8."
        ) from error
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows: list[list[str]] = []
    problems: list[tuple[int, str]] = []
    try:
        header = next(reader, [])
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                problems.append((len(rows), f"{len(row)} values but the header has {len(header)} columns"))
            rows.append([*row, *[""] * len(header)][: len(header)])
    except csv.Error as error:
        raise DataError(f"{file.name}, line {reader.line_num}: this is not CSV: {error}.") from error
    names = unique_names(file, header)
    columns = {name: [row[place].strip() for row in rows] for place, name in enumerate(names)}
    if "label" in columns:
        tell_spaces(file, [row[names.index("label")] for row in rows])
    return Columns(columns, None, problems)


def tell_spaces(file: Path, labels: list[str]) -> None:
    """Log labels that differ in the spaces around them alone, which are not kept."""
    written: dict[str, str] = {}
    for label in dict.fromkeys(labels):
        other = written.setdefault(label.strip(), label)
        if other != label:
            log.warning(
                "%s: labels that differ only in the spaces around them are one class: %r and %r.",
                printable(file.name),
                other,
                label,
            )
            return


def unique_names(file: Path, header: Sequence[str]) -> list[str]:
    """Return the names of the columns, known ones as they are known.

    Raises:
        DataError: if two have one name.
    """
    plain = [name.strip() for name in header]
    names = [known_name(name, plain) for name in plain]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{file.name}: column '{twice[0]}' occurs twice; give each column a name of its own.")
    return names


def read_parquet(file: Path) -> Columns:
    """Read a Parquet file; columns of vectors and the like are told and not read at all."""
    parquet = require("pyarrow.parquet", "train")
    try:
        schema = parquet.read_schema(file)
        names = unique_names(file, schema.names)
        kinds = {name: kind_of(schema.field(place).type) for place, name in enumerate(names)}
        check_kinds(file, kinds, {name: schema.field(place).type for place, name in enumerate(names)})
        pictures = IMAGE if kinds.get(IMAGE) in ("picture", "bytes") and "path" not in kinds else None
        read = [
            n for n in names if kinds[n] == "value" or n == pictures or (n in KNOWN and kinds[n] == "bytes")
        ]
        read = [name for name in read if not PANDAS_INDEX.fullmatch(name)]
        left = [name for name in names if name not in read and not PANDAS_INDEX.fullmatch(name)]
        given = [schema.names[names.index(name)] for name in read]
        table = parquet.read_table(file, columns=given)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file.name} cannot be read as Parquet: {error}") from error
    if left:
        log.warning(
            "%s: columns of vectors, lists or bytes are not read: %s.",
            printable(file.name),
            ", ".join(f"'{printable(name)}'" for name in left[:8]) + (", …" if len(left) > 8 else ""),
        )
    values = {name: table.column(each).to_pylist() for name, each in zip(read, given, strict=True)}
    held = values.pop(pictures) if pictures else None
    columns = {name: as_texts(file, name, column) for name, column in values.items()}
    names_of_labels = class_names(schema.metadata or {})
    if names_of_labels and "label" in columns:
        columns["label"] = [named_label(text, names_of_labels) for text in columns["label"]]
    return Columns(columns, None if held is None else [held_picture(value) for value in held])


def kind_of(kind: Any) -> str:
    """Return "value", "bytes", "picture" (a struct of bytes and path) or "nested" for a type of Arrow's."""
    types = require("pyarrow", "train").types
    if types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if types.is_struct(kind):
        fields = {kind.field(place).name for place in range(kind.num_fields)}
        return "picture" if {"bytes", "path"} <= fields else "nested"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return "bytes"
    return "nested" if types.is_nested(kind) or hasattr(kind, "storage_type") else "value"


def check_kinds(file: Path, kinds: Mapping[str, str], types: Mapping[str, Any]) -> None:
    """Refuse a known column of a kind that it cannot have.

    Raises:
        DataError: if there is one.
    """
    for name, kind in kinds.items():
        if name in KNOWN and kind in ("nested", "picture"):
            hint = "; name the column 'image'" if kind == "picture" and name == "path" else ""
            raise DataError(
                f"{file.name}: the column '{name}' holds {printable(types[name])}; expected one text or one "
                f"number in each row{hint}."
            )


def as_texts(file: Path, name: str, values: list[Any]) -> list[str]:
    """Return values as texts: whole numbers as such whatever their type, missing ones and NaN as ""."""
    numbers = [v for v in values if isinstance(v, float) and not math.isnan(v)]
    whole = all(number.is_integer() and abs(number) < 2**53 for number in numbers)

    def text(row: int, value: Any) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if isinstance(value, float) and whole:
            return str(int(value))
        if isinstance(value, bytes):
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise DataError(
                    f"{file.name}, row {row + 2}: {name} is bytes that are no UTF-8 text; write it as text."
                ) from None
        return str(value)

    return [text(row, value) for row, value in enumerate(values)]


def class_names(metadata: Mapping[bytes, bytes]) -> list[str]:
    """Return the names of the labels 0, 1, … where a data set of Hugging Face's tells them, else nothing."""
    try:
        told = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return told if isinstance(told, list) and all(isinstance(name, str) and name for name in told) else []


def named_label(text: str, names: list[str]) -> str:
    """Return the name of a label that is a number with a name, else the text as it is."""
    return names[int(text)] if text.isdecimal() and int(text) < len(names) else text


def held_picture(value: Any) -> tuple[bytes | None, str]:
    """Return (bytes, path) of a picture in a table, either of which may be missing."""
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        return (data if isinstance(data, bytes) else None), (path if isinstance(path, str) else "")
    return (value if isinstance(value, bytes) else None), ""
