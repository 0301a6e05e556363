"""Similarity measures on plain vectors: larger is nearer."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Measure = Literal["cosine", "dot", "euclidean", "squared_euclidean"]

EXACT = 2**16
"""Multiplications up to which sums run in float64, where that takes some microseconds.

The last bit of a float32 product depends on how many rows it is made of: so would, of a steep loss on a small
batch, the gradient on the number of ranks.
"""


def is_product(measure: Measure) -> bool:
    """Say whether a measure is the plain product of (unit) vectors."""
    return measure in ("cosine", "dot")


def few(rows: Float[Tensor, "row dim"], columns: Float[Tensor, "column dim"]) -> bool:
    """Say whether similarities are so few that they are computed in float64; see ``EXACT``."""
    exact = rows.shape[0] * columns.numel() <= EXACT and rows.dtype == torch.float32
    return exact and rows.device.type in ("cpu", "cuda")


def between(
    rows: Float[Tensor, "row dim"], columns: Float[Tensor, "column dim"], measure: Measure
) -> Float[Tensor, "row column"]:
    """Similarity of each row with each column; the Euclidean measures give the *negated* distance.

    Vectors of a cosine must be unit length already. Distances are taken from the differences x - y:
    |x|² + |y|² - 2 <x, y> loses all digits of a near pair. The subgradient at distance 0 is 0. What float32
    takes few multiplications for is rounded once, see ``EXACT``.
    """
    if few(rows, columns):
        return _between(rows.double(), columns.double(), measure).float()
    return _between(rows, columns, measure)


def _between(rows: Tensor, columns: Tensor, measure: Measure) -> Tensor:
    if is_product(measure):
        return rows @ columns.mT
    distance = torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist")
    return -distance if measure == "euclidean" else -distance.square()


def row_by_row(
    x: Float[Tensor, "pair dim"], y: Float[Tensor, "pair dim"], measure: Measure
) -> Float[Tensor, " pair"]:
    """Similarity of each row of ``x`` with the same row of ``y``."""
    if is_product(measure):
        return (x * y).sum(1)
    square = (x - y).square().sum(1)
    if measure == "squared_euclidean":
        return -square
    apart = square > 0
    return -torch.where(apart, square, 1.0).sqrt() * apart
