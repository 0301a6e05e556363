"""Rows of embeddings: checked, measured and summed in float64 in one fixed order, brought to float32."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from nearfar.errors import NearfarError

BLOCK = 2**17  # float64 numbers worked on at once: they stay in the second-level cache
LONG = 2.0**400  # between 1 / LONG and LONG squares, their sums and products of two of these fit into float64


def as_rows(embeddings: Tensor | np.ndarray, name: str, *, least: int = 1) -> np.ndarray:
    """Return embeddings [n, dim] as a float32 or float64 array on the CPU.

    Half precision becomes float32, which holds it exactly; whole numbers and bool become float64.

    Args:
        embeddings: one row for each image.
        name: what the caller calls them.
        least: rows that must be there.

    Raises:
        NearfarError: if the shape is not [n, dim], the values are no real numbers, or one is NaN or infinite.
    """
    rows = _array(embeddings, name)
    if rows.ndim != 2 or rows.shape[0] < least or rows.shape[1] == 0:
        some = ", at least one" if least else ""
        raise NearfarError(
            f"{name} has shape {tuple(rows.shape)}; give one row for each image, [n, dim]{some}."
        )
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float32 if rows.dtype == np.float16 else np.float64)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        count = np.count_nonzero(~finite)
        raise NearfarError(
            f"{name} has {count} rows with NaN or infinite values of {len(rows)}, the "
            f"first is row {np.flatnonzero(~finite)[0]}; remove them or find out why the model made them."
        )
    return np.ascontiguousarray(rows)


def _array(embeddings: Any, name: str) -> np.ndarray:
    """Real numbers of any kind as an array."""
    array = plain_array(embeddings, name)
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise NearfarError(
                f"{name} holds other things than numbers; give real numbers, [n, dim]."
            ) from error
    if array.dtype.kind not in "biuf":
        raise NearfarError(f"{name} is of {array.dtype}; embeddings are real numbers, [n, dim].")
    return array


def plain_array(values: Any, name: str) -> np.ndarray:
    """Return a tensor of any device and float type, an array or nested lists as an array; halves as float32.

    Raises:
        NearfarError: if it is none.
    """
    if isinstance(values, Tensor):
        if values.layout != torch.strided or values.is_meta:
            kind = "on the meta device, without values" if values.is_meta else "sparse"
            raise NearfarError(f"{name} is {kind}; give a dense tensor that holds its values.")
        tensor = values.detach().cpu()
        if tensor.is_floating_point() and tensor.dtype != torch.float64:
            tensor = tensor.float()
        return tensor.resolve_conj().resolve_neg().numpy()
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise NearfarError(
            f"{name} is a {type(values).__name__} that is no array of numbers; give numbers of one shape."
        ) from error


def resolution(embeddings: Tensor | np.ndarray) -> float:
    """How far apart neighbouring numbers near 1 are in the type in which the embeddings come."""
    if isinstance(embeddings, Tensor):
        return torch.finfo(embeddings.dtype).eps if embeddings.is_floating_point() else 2.0**-52
    kind = np.asarray(embeddings).dtype
    return float(np.finfo(kind).eps) if kind in (np.float16, np.float32) else 2.0**-52


def peaks(rows: Float[np.ndarray, "n dim"]) -> Float64[np.ndarray, " n"]:
    """The largest absolute value of each row."""
    return np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0)).astype(np.float64)


def power_beyond(high: float) -> int:
    """The power of two in whose units squares up to that of ``high`` fit into float64; 0 if they do."""
    return 0 if high == 0 or 1 / LONG <= high <= LONG else math.frexp(high)[1]


def in_units(rows: Float[np.ndarray, "n dim"], power: int) -> Float[np.ndarray, "n dim"]:
    """Divide rows by two to this power; by 1, they stay as they are."""
    return np.ldexp(rows.astype(np.float64), -power) if power else rows


def squarable(rows: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    """Bring rows whose squares no float64 holds near length 1, each by a power of two.

    Exact, so that the cosine of two rows stays what it is to the last bit. Other rows stay as they are.
    """
    if rows.dtype == np.float32:  # its squares always fit
        return rows
    peak = peaks(rows)
    far = (peak > LONG) | ((peak < 1 / LONG) & (peak > 0))
    if not far.any():
        return rows
    result = rows.copy()
    result[far] = np.ldexp(rows[far], -np.frexp(peak[far])[1][:, None])
    return result


def unit(rows: Float[np.ndarray, "n dim"]) -> Float64[np.ndarray, "n dim"]:
    """Rows of length 1 in float64, of any finite length; a zero row stays zero."""
    rows = squarable(rows).astype(np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def fold(terms: Float64[np.ndarray, "pair dim"]) -> Float64[np.ndarray, " pair"]:
    """Sum each row by adding its second half to its first, again and again.

    Only elementwise additions, so the result does not depend on how many rows are summed or on which machine.
    ``terms`` is used up.
    """
    dim = terms.shape[1]
    while dim > 1:
        half = (dim + 1) // 2
        terms[:, : dim - half] += terms[:, half:dim]
        dim = half
    return terms[:, 0].copy()


def norms(rows: Float[np.ndarray, "n dim"], centre: Float64[np.ndarray, " dim"]) -> Float64[np.ndarray, " n"]:
    """|x - centre| of each row."""
    lengths = np.empty(len(rows))
    step = max(1, BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float64) - centre
        block *= block
        lengths[start : start + step] = np.sqrt(fold(block))
    return lengths


def inverse(norms: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """1/|x|, and 0 for a zero row: it then has cosine 0 with everything."""
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def rows32(
    rows: Float[np.ndarray, "n dim"],
    centre: Float64[np.ndarray, " dim"],
    factor: Float64[np.ndarray, " n"],
) -> Float32[Tensor, "n dim"]:
    """(x - centre) · factor, rounded to float32 once."""
    result = np.empty(rows.shape, np.float32)
    step = max(1, BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float64) - centre
        block *= factor[start : start + step, None]
        result[start : start + step] = block
    return torch.from_numpy(result)
