"""Rows that have no label, left out before anything is measured."""

from typing import Any

import numpy as np
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.evaluate.sides import as_integers
from nearfar.numbers import brief, whole_number


def with_label(unlabelled: Any, labels: Any, *columns: Any, name: str = "labels") -> list[Any]:
    """Return labels and all columns without the rows whose label is ``unlabelled``; None stays None.

    Raises:
        NearfarError: if ``unlabelled`` is no label, or no row has another.
    """
    mark = whole_number(unlabelled)
    if mark is None:
        raise NearfarError(f"unlabelled must be a label, a whole number such as -1; got {brief(unlabelled)}.")
    if labels is None:
        raise NearfarError(f"unlabelled = {mark} leaves out rows by their label; give {name}.")
    label = as_integers(labels, name, len(labels))
    kept = np.flatnonzero(label != mark)
    if not len(kept):
        raise NearfarError(f"every one of the {len(label)} {name} is {mark}, so that no row is left.")
    given = [None if column is None else _some(column, kept, len(label)) for column in columns]
    return [label[kept], *given]


def _some(column: Any, kept: np.ndarray, rows: int) -> Any:
    if len(column) != rows:  # the sentence for that is said where the columns are read
        return column
    return column[kept.tolist()] if isinstance(column, Tensor) else np.asarray(column)[kept]
