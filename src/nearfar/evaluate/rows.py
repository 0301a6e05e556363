"""Rows of embeddings: checked, measured and summed in float64 in one fixed order, brought to float32."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from nearfar.errors import NearfarError

BLOCK = 2**17  # float64 numbers worked on at once: they stay in the second-level cache


def as_rows(embeddings: Tensor | np.ndarray, name: str, *, least: int = 1) -> np.ndarray:
    """Return embeddings [n, dim] as a float32 or float64 array on the CPU; half precision becomes float32.

    Args:
        embeddings: one row for each image.
        name: what the caller calls them.
        least: rows that must be there.

    Raises:
        NearfarError: if the shape is not [n, dim], or a value is NaN or infinite.
    """
    if isinstance(embeddings, Tensor):
        tensor = embeddings.detach().cpu()
        rows = (tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()).numpy()
    else:
        rows = np.asarray(embeddings)
    if rows.ndim != 2 or rows.shape[0] < least or rows.shape[1] == 0:
        some = ", at least one" if least else ""
        raise NearfarError(
            f"{name} has shape {tuple(rows.shape)}; give one row for each image, [n, dim]{some}."
        )
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float32 if rows.dtype == np.float16 else np.float64)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise NearfarError(
            f"{name} has {np.count_nonzero(~finite)} rows with NaN or infinite values, the first is row "
            f"{np.flatnonzero(~finite)[0]}; remove them or find out why the model made them."
        )
    return np.ascontiguousarray(rows)


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
