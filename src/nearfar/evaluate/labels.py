"""One integer for each row: labels, ids, cameras; what is missing among them, and what comes twice."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.evaluate.rows import plain_array
from nearfar.evaluate.settings import whole_number
from nearfar.missing import warn_of_missing

Array = Tensor | np.ndarray | Sequence[int]


class RepeatedIdWarning(UserWarning):
    """Rows that have the id of a row before them."""


def as_integers(values: Array, name: str, rows: int, *, multi: bool = False) -> np.ndarray:
    """Return one integer (or, with ``multi``, one multi-hot row) for each row; int64, never by way of floats.

    A column [n, 1] is read as [n]: one tag alone would say nothing.

    Raises:
        NearfarError: if the values are not integers, or there is not one for each row.
    """
    array = plain_array(values, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 0 or len(array) != rows:
        count = f"shape {array.shape}" if array.ndim > 1 else f"{array.size} rows"
        raise NearfarError(f"{name} has {count} but there are {rows} images; give one for each image.")
    if array.ndim == 2 and multi:
        if array.dtype.kind not in "biu" or array.size == 0 or array.min() < 0 or array.max() > 1:
            raise NearfarError(
                f"{name} is a matrix [n, classes] and must be multi-hot: only 0 and 1 (or bool)."
            )
        return array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        names = "; number names by np.unique(names, return_inverse=True)[1]" * (array.dtype.kind in "USO")
        raise NearfarError(
            f"{name} must be one integer for each image; got shape {array.shape} and dtype "
            f"{array.dtype}{names}."
        )
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise NearfarError(f"{name} has {array.max()}, which is beyond int64; number the classes anew.")
    return array.astype(np.int64)


def labelled(
    labels: Array, rows: int, unlabelled: int | None, *, name: str = "labels"
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " kept"] | None]:
    """Return the labels of the rows that have one, and which rows these are; None where all have.

    Raises:
        NearfarError: if no row is left.
    """
    label = as_integers(labels, name, rows)
    if unlabelled is None:
        warn_of_missing(label, "are taken as one class", "the evaluation", stacklevel=4)
        return label, None
    kept = np.flatnonzero(label != as_label(unlabelled))
    if len(kept) == 0:
        raise NearfarError(
            f"all {rows} rows have the label {unlabelled} of unlabelled rows; nothing is left."
        )
    return label[kept], kept if len(kept) < rows else None


def as_label(unlabelled: Any) -> int:
    """Return the label of rows without one as an int."""
    return whole_number(unlabelled, "unlabelled", -(2**63), most=2**63 - 1)


def warn_of_repeated(ids: Int64[np.ndarray, " n"], name: str, so: str) -> None:
    """Say it where an id comes twice."""
    repeated = np.setdiff1d(np.arange(len(ids)), np.unique(ids, return_index=True)[1])
    if len(repeated):
        warnings.warn(
            f"{len(repeated)} of {len(ids)} rows have an id that is there already in {name}, the first is "
            f"row {repeated[0]}, as a padded last batch leaves them; they {so}. Keep the rows "
            f"np.unique({name}, return_index=True)[1], unless they are several images under one id.",
            RepeatedIdWarning,
            stacklevel=5,
        )
