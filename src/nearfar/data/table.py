"""A data set is a table: one row per image, with its path, its label and what else is known of it."""

import logging
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int, Int64, Shaped

from nearfar.errors import DataError, suggest
from nearfar.printable import printable

log = logging.getLogger("nearfar")

# What `datasets` and others write where a label is missing.
UNLABELLED = "-1"


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
        from nearfar.data.columns import BOX
        from nearfar.data.rows import check_writable, write_rows

        file = Path(os.path.abspath(file))
        check_writable(self, file)
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


def read_table(
    source: str | Path,
    *,
    classes: Literal["top", "leaf"] = "top",
    unlabelled: int | str | None = None,
    missing: Literal["refuse", "keep"] = "refuse",
    **options: Any,
) -> Table:
    """Read a data set.

    Args:
        source: one of

            - a folder of class folders, ``root/<class>/<image>``, or one with its parts given,
              ``root/{train,validation,test}/<class>/<image>`` or ``root/{query,gallery}/<class>/<image>``;
              parts are known whatever their case, and as "val", "valid", "training" or "testing" too;
            - a ``.csv`` or ``.parquet`` file with the columns ``path`` and ``label``, paths relative to the
            file;
            - the name of a pack, such as "objects"; write "./objects" for a folder of that name.
        classes: "leaf" makes a class of each folder that holds images itself, however deep it lies, and not
            of each folder at the top; a file or a pack knows its classes.
        unlabelled: the label of images without one, such as -1; they are left out.
        missing: "keep" keeps the rows of a file whose image does not exist; it is unreadable.
        options: passed to ``nearfar.data.packs.load``; a folder or a file takes none.

    Raises:
        DataError: if there is no such source, or it does not hold images of at least two classes.
    """
    from nearfar.data import packs

    text, path = str(source), Path(source)
    if isinstance(source, str) and source in packs.names():
        return packs.load(source, **options)
    if options:
        raise DataError(
            f"only a pack takes options; '{text}' is a folder or a file, so leave out {sorted(options)}."
        )
    if path.is_dir():
        from nearfar.data.folders import read_folder

        table = read_folder(path, classes)
    elif path.suffix.lower() in {".csv", ".parquet"}:
        from nearfar.data.rows import read_rows

        table = read_rows(path, missing)
    elif path.exists():
        raise DataError(f"cannot read '{text}' as a table of images; {expected(packs.names())}.")
    else:
        raise DataError(f"no such folder: '{text}'; {expected(packs.names())}.{suggest(text, packs.names())}")
    table = labelled(table, unlabelled)
    tell_alike(table)
    if table.class_count() < 2:
        found = f"one class ('{table.classes[0]}')" if table.classes else "no class"
        raise DataError(
            f"'{text}' has {found}; metric learning needs at least two, "
            "each with its images in a folder of its own or under a label of its own."
        )
    return table


def labelled(table: Table, unlabelled: int | str | None) -> Table:
    """Leave out the images of the class ``unlabelled``, or tell of those that seem to have no label."""
    name = UNLABELLED if unlabelled is None else str(unlabelled)
    if name not in table.classes:
        return table
    place = table.classes.index(name)
    without = table.label == place
    count = int(without.sum())
    if unlabelled is None:
        log.warning(
            "%s: %s of %s images have the label %s, the usual mark of no label, and are one class like any "
            "other; set data.unlabelled = %s to leave them out.",
            printable(table.name),
            f"{count:,}",
            f"{len(table):,}",
            name,
            name,
        )
        return table
    log.warning(
        "%s: images without a label (%s) are left out: %s of %s.",
        printable(table.name),
        printable(name),
        f"{count:,}",
        f"{len(table):,}",
    )
    kept = table.select(~without)
    others = (*table.classes[:place], *table.classes[place + 1 :])
    label = kept.label - (kept.label > place)
    return Table(kept.path, label, others, kept.columns, table.source, table.name)


def tell_alike(table: Table) -> None:
    """Log two classes whose names look alike, since they are probably meant to be one."""
    first: dict[str, str] = {}
    for name in table.classes:
        other = first.setdefault(" ".join(unicodedata.normalize("NFC", name).split()), name)
        if other != name:
            log.warning(
                "%s: the classes %s and %s look alike and are two; rename one if they are meant to be one.",
                printable(table.name),
                ascii(other),
                ascii(name),
            )
            return


def expected(packs: list[str]) -> str:
    """Return what a source may be, for the end of an error."""
    return f"give a folder of class folders, a .csv or .parquet table, or one of: {', '.join(packs)}"
