"""Split a table by class: no class of one part occurs in the other."""

import hashlib
import logging

import numpy as np

from nearfar.data.table import Table
from nearfar.errors import DataError

log = logging.getLogger("nearfar")


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
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


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
