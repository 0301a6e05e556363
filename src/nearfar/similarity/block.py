"""Anchors against candidates: the tensors that a backend computes on."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.similarity.relation import Relation

Measure = Literal["cosine", "dot", "euclidean", "squared_euclidean"]


@dataclass(frozen=True, eq=False)
class Block:
    """Two sets of vectors, the measure between them, and who may be compared with whom.

    Similarity is always larger for nearer: the Euclidean measures give the *negated* distance. Vectors of
    a cosine block are unit length already, so that its similarity is the plain product.
    """

    anchors: Float[Tensor, "anchor dim"]
    candidates: Float[Tensor, "candidate dim"]
    measure: Measure
    relation: Relation

    def between(self, rows: Tensor, columns: Tensor) -> Float[Tensor, "row column"]:
        """Similarity of each row with each column.

        Distances are taken from the differences x - y: |x|² + |y|² - 2 <x, y> loses all digits of a near
        pair. The subgradient at distance 0 is 0.
        """
        if self.measure in ("cosine", "dot"):
            return rows @ columns.mT
        distance = torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist")
        return -distance if self.measure == "euclidean" else -distance.square()

    def at(self, anchor: Int[Tensor, " pair"], candidate: Int[Tensor, " pair"]) -> Float[Tensor, " pair"]:
        """Similarity of single pairs. It gathers both rows of each pair: for a few pairs per anchor."""
        x, y = self.anchors[anchor], self.candidates[candidate]
        if self.measure in ("cosine", "dot"):
            return (x * y).sum(1)
        square = (x - y).square().sum(1)
        if self.measure == "squared_euclidean":
            return -square
        apart = square > 0
        return -torch.where(apart, square, 1.0).sqrt() * apart

    @cached_property
    def matrix(self) -> Float[Tensor, "anchor candidate"]:
        """All similarities, kept for the small batches of the dense backend."""
        return self.between(self.anchors, self.candidates)
