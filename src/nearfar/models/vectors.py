"""What ``similarity`` is given: vectors of any floating-point type, one or many."""

from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import DataError
from nearfar.similarity import normalize


def cosines(left: Float[Tensor, "n dim"], right: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    """Return the cosine of each vector of ``left`` with each of ``right``.

    Raises:
        DataError: if they differ in length.
    """
    if not (len(left) and len(right)):
        return torch.zeros(len(left), len(right))
    if left.shape[1] != right.shape[1]:
        raise DataError(
            f"the vectors of a have {left.shape[1]} numbers, but those of b have {right.shape[1]}; give "
            "vectors of one model."
        )
    return normalize(left) @ normalize(right).T


def vectors(given: Any, name: str) -> Float[Tensor, "n dim"] | None:
    """Return vectors as float32 ``[n, dim]``, one vector as ``[1, dim]``; None for what speaks of pictures.

    An array or a tensor of one or two axes is vectors, and so is a list of numbers or of such.

    Raises:
        DataError: if vectors are not floating point or differ in length.
    """
    found = _stacked(given, name) if isinstance(given, (list, tuple)) and given else given
    if isinstance(found, np.ndarray) and found.ndim <= 2 and found.dtype.kind not in "UOS":
        found = _as_tensor(found, name)
    if not isinstance(found, Tensor) or found.ndim > 2:
        return None
    if not found.is_floating_point() or not found.ndim:
        raise DataError(
            f"{name} is {found.dtype} {list(found.shape)}; vectors are floating point, [n, dim] or [dim]; "
            "a grey picture goes into a list."
        )
    rows = (found if found.ndim == 2 else found[None] if len(found) else found.reshape(0, 0)).cpu()
    # float64 may hold numbers that float32 cannot, and their directions matter alone.
    largest = rows.abs().amax(1, keepdim=True) if rows.dtype == torch.float64 and rows.numel() else None
    return rows.float() if largest is None else (rows / torch.where(largest > 0, largest, 1)).float()


def _stacked(given: list[Any] | tuple[Any, ...], name: str) -> Any:
    """Return a list of numbers or of vectors as one tensor, and any other list as it is."""
    if all(isinstance(row, Real) for row in given):
        return torch.tensor([float(row) for row in given])
    rows = [_row(row, name) for row in given]
    if any(row is None for row in rows):
        return given
    lengths = sorted({len(row) for row in rows if row is not None})
    if len(lengths) > 1:
        raise DataError(
            f"{name} has vectors of {lengths[0]} and of {lengths[1]} numbers; expected one length."
        )
    return torch.stack([row.cpu() for row in rows if row is not None])


def _row(row: Any, name: str) -> Tensor | None:
    if isinstance(row, np.ndarray) and row.ndim == 1 and row.dtype.kind not in "UOS":
        return _as_tensor(row, name)
    if isinstance(row, (list, tuple)) and row and all(isinstance(value, Real) for value in row):
        return torch.tensor([float(value) for value in row])
    return row if isinstance(row, Tensor) and row.ndim == 1 else None


def _as_tensor(values: np.ndarray, name: str) -> Tensor:
    if values.dtype.kind not in "fiubc":
        raise DataError(f"{name} is an array of {values.dtype}; vectors are floating point.")
    wide = np.float64 if values.dtype.kind == "f" and values.dtype.itemsize > 8 else values.dtype
    return torch.from_numpy(np.array(values, np.dtype(wide).newbyteorder("=")))
