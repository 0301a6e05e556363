"""The whole similarity matrix as that which a loss is derived by: what each pair does to it."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.similarity.dense.matrix import DenseBlock
from nearfar.similarity.interval import Interval
from nearfar.similarity.measure import Measure, between
from nearfar.similarity.reductions import Reduction
from nearfar.similarity.relation import Relation
from nearfar.similarity.stable import taken
from nearfar.similarity.stored import Stored

MOST = 2**22
"""Similarities in memory at once, where a reduction asks for a row for each positive pair."""


class TooManyPairs(Exception):
    """A matrix would be too large: take this share of the anchors."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share


class NotOfPairs(Exception):
    """What is computed is no function of the similarities of anchors with candidates alone."""


class SlopesBlock:
    """See ``Block``. Similarities are leaves, of which `of` makes one; vectors are there to be looked at.

    A loss that builds comparisons of its own out of the vectors is refused: their similarities are others.
    """

    dense: DenseBlock
    measure: Measure
    relation: Relation

    def __init__(self, *vectors: object) -> None:  # noqa: ARG002, called as every ``Build``
        raise NotOfPairs

    @classmethod
    def of(
        cls,
        anchors: Float[Tensor, "anchor dim"],
        candidates: Float[Tensor, "candidate dim"],
        measure: Measure,
        relation: Relation,
        stored: Stored | None = None,
    ) -> "SlopesBlock":
        """Compare, and make the similarities leaves.

        Where the candidates are not the anchors their vectors are leaves too: a gradient there is one of
        other pairs, or of lengths.
        """
        with torch.no_grad():
            dense = DenseBlock(anchors, candidates, measure, relation, stored)
            matrix = dense.matrix
        if dense.candidates is not dense.anchors:
            dense.candidates.requires_grad_()
        return cls._around(dense, matrix.requires_grad_())

    @classmethod
    def _around(cls, dense: DenseBlock, matrix: Float[Tensor, "anchor candidate"]) -> "SlopesBlock":
        block = object.__new__(cls)
        dense.compared_as(matrix)  # what is listed and what is streamed are both read from it
        block.dense, block.measure, block.relation = dense, dense.measure, dense.relation
        return block

    def __len__(self) -> int:
        return len(self.dense)

    @property
    def matrix(self) -> Float[Tensor, "anchor candidate"]:
        """All similarities."""
        return self.dense.matrix

    @property
    def anchors(self) -> Tensor:
        return self.dense.anchors

    @property
    def candidates(self) -> Tensor:
        return self.dense.candidates

    @property
    def parts(self) -> tuple[Tensor, None]:
        return self.dense.candidates, None

    def positives(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        return self.matrix[anchor, candidate]

    def at(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        if not self.matrix.numel():
            return 0 * self.anchors[anchor].sum(1)
        return taken(self.matrix.flatten(), anchor * self.matrix.shape[1] + candidate)

    def stream(
        self, interval: Interval, owners: Tensor, reductions: Sequence[Reduction]
    ) -> tuple[Tensor, ...]:
        rows = len(owners) if any(reduction.per == "positive" for reduction in reductions) else 0
        if rows * self.matrix.shape[1] > MOST:
            raise TooManyPairs(MOST / (rows * self.matrix.shape[1]))
        return self.dense.stream(interval, owners, reductions)

    def map(
        self, change: Callable[[Tensor], Tensor], candidates: Callable[[Tensor], Tensor] | None = None
    ) -> "SlopesBlock":
        """Scale: whatever changes the vectors is taken to multiply every similarity by one factor."""
        one = self.anchors.new_ones(1, max(1, self.anchors.shape[1]))
        plain = between(one, 2 * one, self.measure)
        factor = between(change(one), (candidates or change)(2 * one), self.measure) / plain
        return self._around(self.dense.map(change, candidates), self.matrix * factor)
