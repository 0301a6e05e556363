"""A data set is a table: one row per image, with its path, its label and what else is known of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int64, Shaped

from nearfar.data.columns import BOX
from nearfar.data.writing import check_writable, write_rows
from nearfar.errors import DataError


@dataclass(frozen=True, eq=False)
class Table:
    """Images with labels.

    Attributes:
        path: absolute path of each image.
        label: index into ``classes`` of each image.
        classes: names of the classes. A selection keeps them all, so that labels stay comparable.
        columns: what else is known, each with one value per row: ``split`` ("train", "validation" or "test"),
            ``is_query``, ``is_gallery``, ``group``, ``camera``, ``sequence``, ``box``, ``id``, or any other.
        source: where the table came from.
        name: a short name for titles.
    """

    path: Shaped[np.ndarray, " image"]
    label: Int64[np.ndarray, " image"]
    classes: tuple[str, ...]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    source: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        for column, values in {"path": self.path, "label": self.label, **self.columns}.items():
            if len(values) != len(self.path):
                raise DataError(
                    f"column '{column}' has {len(values)} rows but there are {len(self.path)} paths; "
                    "give one value for each image."
                )
        if self.label.dtype != np.int64:
            raise DataError(f"labels must be int64 indices of classes; got {self.label.dtype}.")
        if len(self.label) and not 0 <= self.label.min() <= self.label.max() < len(self.classes):
            raise DataError(
                f"labels run from {self.label.min()} to {self.label.max()} but there are "
                f"{len(self.classes)} classes; a label is an index into classes."
            )

    def __len__(self) -> int:
        return len(self.path)

    def __repr__(self) -> str:
        return f"Table({self.name or self.source}: {len(self):,} images of {self.class_count():,} classes)"

    def select(self, rows: Bool[np.ndarray, " image"] | Int[np.ndarray, " selected"]) -> "Table":
        """Return the chosen rows, by mask or by index; classes and labels stay as they are.

        Raises:
            DataError: if a mask has another length than the table.
        """
        rows = np.asarray(rows)
        if rows.dtype == bool and len(rows) != len(self):
            raise DataError(f"the mask has {len(rows)} values but the table has {len(self)} rows.")
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Table(self.path[rows], self.label[rows], self.classes, columns, self.source, self.name)

    def class_count(self) -> int:
        """Return the number of classes that occur."""
        return len(np.unique(self.label))

    def counts(self) -> dict[str, Any]:
        """Return ``images``, ``classes`` (those that occur), ``per_class``: (smallest, median, largest)."""
        sizes = np.unique(self.label, return_counts=True)[1]
        per_class = (
            (int(sizes.min()), float(np.median(sizes)), int(sizes.max())) if len(sizes) else (0, 0.0, 0)
        )
        return {"images": len(self), "classes": len(sizes), "per_class": per_class}

    def to_file(self, file: str | Path) -> Path:
        """Write the table as ``.csv`` or ``.parquet``, which ``read_table`` reads back.

        Paths under the file's folder are written relative to it, so that the folder can be moved as a whole.
        A box becomes the columns ``x_1, y_1, x_2, y_2``.

        Raises:
            DataError: if the file has another ending, or cannot hold what the table does.
        """
        file = Path(os.path.abspath(file))
        check_writable(self.path.tolist(), self.classes, file, self.name or "the table")
        folder = str(file.parent) + os.sep
        columns: dict[str, list[Any]] = {
            "path": [path[len(folder) :] if path.startswith(folder) else path for path in self.path],
            "label": [self.classes[label] for label in self.label],
        }
        for name, values in self.columns.items():
            if name == "box":
                columns |= {key: values[:, place].tolist() for place, key in enumerate(BOX)}
            else:
                columns[name] = values.tolist()
        write_rows(file, columns)
        return file
