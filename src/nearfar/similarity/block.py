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
        """Similarity of each row with each column: S, or -(|x|² + |y|² - 2S), or minus its root."""
        return similarity(self.measure, rows @ columns.mT, _square(rows)[:, None], _square(columns)[None, :])

    def at(self, anchor: Int[Tensor, " pair"], candidate: Int[Tensor, " pair"]) -> Float[Tensor, " pair"]:
        """Similarity of single pairs. It gathers both rows of each pair: for a few pairs per anchor."""
        x, y = self.anchors[anchor], self.candidates[candidate]
        return similarity(self.measure, (x * y).sum(1), _square(x), _square(y))

    @cached_property
    def matrix(self) -> Float[Tensor, "anchor candidate"]:
        """All similarities, kept for the small batches of the dense backend."""
        return self.between(self.anchors, self.candidates)


def similarity(measure: Measure, product: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Turn products and squared lengths into similarities; the subgradient at distance 0 is 0."""
    match measure:
        case "cosine" | "dot":
            return product
        case "squared_euclidean":
            return -(left + right - 2 * product).clamp_min(0)
        case "euclidean":
            square = (left + right - 2 * product).clamp_min(0)
            apart = square > 0
            return -torch.where(apart, square, 1.0).sqrt() * apart


def _square(x: Tensor) -> Tensor:
    return x.square().sum(1)
