"""Split a table by class: no class of one part occurs in the other."""

import hashlib
import logging

import numpy as np

from nearfar.data.table import Table
from nearfar.errors import DataError
from nearfar.printable import printable

log = logging.getLogger("nearfar")

# With fewer training classes, results hang on which they are.
FEW_CLASSES = 8
# Columns that say who may find whom.
ROLES = ("is_query", "is_gallery", "camera", "sequence", "id")


def split_by_class(table: Table, fraction: float = 0.5, seed: int = 0) -> tuple[Table, Table]:
    """Split so that ``fraction`` of the classes, drawn by ``seed``, are in the first part and the rest in the
    second.

    The draw orders classes by a hash of seed and name, so it is the same on every machine and with every
    version, and a class more or less moves few others. Each part gets at least one class.

    Raises:
        DataError: if ``fraction`` is not between 0 and 1 or there are fewer than two classes.
    """
    if not 0 < fraction < 1:
        raise DataError(f"fraction must lie between 0 and 1; got {fraction}.")
    occurring = np.unique(table.label)
    if len(occurring) < 2:
        raise DataError(f"cannot split {len(occurring)} class by class; at least two are needed.")
    order = sorted(occurring, key=lambda label: draw(table.classes[label], seed))
    count = min(max(int(fraction * len(order) + 0.5), 1), len(order) - 1)
    chosen = np.isin(table.label, order[:count])
    return table.select(chosen), table.select(~chosen)


def draw(name: str, seed: int) -> bytes:
    """Return the place of a class in the draw of ``seed``."""
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogatepass")).digest()


def unseen_classes(train: Table, other: Table) -> bool:
    """Whether no class of ``other`` is one that training learns from, by their names."""
    learned = {train.classes[label] for label in np.unique(train.label)}
    return not any(other.classes[label] in learned for label in np.unique(other.label))


def tell_few_classes(train: Table, validation: Table | None, test: Table) -> None:
    """Log that training learns from few classes, and where the others went."""
    classes = train.class_count()
    if classes >= FEW_CLASSES:
        return
    held_out = 0 if validation is None else validation.class_count()
    kept = ""
    if held_out and validation is not None and unseen_classes(train, validation):
        kept = f", {held_out} held out to choose the best epoch (none with train.validate_on = 'none')"
    log.warning(
        "%s: training learns from %d classes alone; %d more are for the test%s. More classes, or another "
        "split, would teach it more.",
        printable(train.name or train.source),
        classes,
        len(np.setdiff1d(np.unique(test.label), np.unique(train.label))),
        kept,
    )


def tell_roles(table: Table) -> None:
    """Log the columns that training and its report do not follow, and what does."""
    roles = [name for name in ROLES if name in table.columns]
    if roles:
        log.warning(
            "%s has %s: validation and the report let each image search all others; `nearfar evaluate` "
            "follows them.",
            printable(table.name),
            ", ".join(roles),
        )
    if "group" in table.columns:
        log.warning("%s has the column group, which nothing follows.", printable(table.name))


def train_and_test(table: Table, seed: int = 0) -> tuple[Table, Table]:
    """Return the training part and the test part.

    They are the rows with ``split`` "train" and "test" where the table has that column; else the classes are
    split in halves by ``seed``. A class in both parts is logged: the figures then say less about unseen
    classes.

    Raises:
        DataError: if the ``split`` column leaves a part empty.
    """
    if "split" not in table.columns:
        return split_by_class(table, 0.5, seed)
    split = table.columns["split"]
    for part in ("train", "test"):
        if not (split == part).any():
            raise DataError(
                f"{table.name}: no image has split '{part}'; found {sorted(set(split.tolist()))}. "
                "Give both parts, or leave the split out to have the classes split in halves."
            )
    train, test = table.select(split == "train"), table.select(split == "test")
    shared = len(np.intersect1d(train.label, test.label))
    if shared:
        log.warning("classes in both train and test: %d; the test is not on unseen classes alone.", shared)
    return train, test
