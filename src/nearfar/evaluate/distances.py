"""Squared distances in float64 that keep their digits."""

import numpy as np
import torch
from jaxtyping import Float64

from nearfar.evaluate.rows import BLOCK

_NEAR = 1e-7  # of |a|² + |b|², from where |a - b|² is not taken from a product: it would lose its digits


def squared_distances(
    some: Float64[np.ndarray, "some dim"],
    every: Float64[np.ndarray, "every dim"],
    square: Float64[np.ndarray, " every"],
) -> Float64[np.ndarray, "some every"]:
    """|a - b|² of each row of one set with each of another, by a product and, for near pairs, term by term.

    Args:
        some: a few rows.
        every: all rows.
        square: their squared lengths.

    Returns:
        Distances, of equal rows exactly 0.
    """
    product = (torch.from_numpy(some) @ torch.from_numpy(every).T).numpy()
    reach = (some**2).sum(axis=1)[:, None] + square
    squared = reach - 2 * product
    left, right = np.nonzero(squared <= _NEAR * reach)
    few = max(1, BLOCK // every.shape[1])
    for start in range(0, len(left), few):
        one, other = left[start : start + few], right[start : start + few]
        squared[one, other] = ((some[one] - every[other]) ** 2).sum(axis=1)
    return squared
