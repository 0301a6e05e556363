"""Write a table as CSV or Parquet."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nearfar.data.picture import data_of
from nearfar.errors import DataError, require
from nearfar.files import write_atomically
from nearfar.printable import printable


def check_writable(paths: Sequence[str], classes: Sequence[str], file: Path, name: str) -> None:
    """Refuse to write what ``read_rows`` would not read back.

    Args:
        paths: of the images.
        classes: their names.
        file: to write to.
        name: of the table.

    Raises:
        DataError: if the table holds something of the kind.
    """
    held = sum(data_of(path) is not None for path in paths)
    if held:
        raise DataError(
            f"{held:,} images of {name} lie in the file they were read from and have no "
            "path to write; copy that file instead."
        )
    texts = [*paths, *classes]
    strange = next((text for text in texts if printable(text) != text), None)
    if strange is not None:
        raise DataError(
            f"'{printable(strange)}' has bytes or signs that a table does not keep; rename it and try again."
        )
    if file.suffix.lower() == ".csv":
        padded = next((text for text in texts if text != text.strip()), None)
        if padded is not None:
            raise DataError(
                f"'{padded}' begins or ends with a space, which a CSV file does not keep; write a .parquet "
                "file."
            )


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
