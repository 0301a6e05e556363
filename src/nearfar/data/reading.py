"""Read a data set: a folder of class folders, a file, or a pack."""

import logging
import unicodedata
from pathlib import Path
from typing import Any, Literal

from nearfar.data import packs
from nearfar.data.folders import read_folder
from nearfar.data.rows import read_rows
from nearfar.data.table import Table
from nearfar.errors import DataError, suggest
from nearfar.printable import printable

log = logging.getLogger("nearfar")

# What `datasets` and others write where a label is missing.
UNLABELLED = "-1"


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
    text, path = str(source), Path(source)
    if isinstance(source, str) and source in packs.names():
        return packs.load(source, **options)
    if options:
        raise DataError(
            f"only a pack takes options; '{text}' is a folder or a file, so leave out {sorted(options)}."
        )
    if path.is_dir():
        table = read_folder(path, classes)
    elif path.suffix.lower() in {".csv", ".parquet"}:
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
