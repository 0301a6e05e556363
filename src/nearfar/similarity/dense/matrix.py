"""The whole similarity matrix in memory and plain autograd: for small batches and double backward."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from nearfar.similarity.dense.reduce import reduce
from nearfar.similarity.interval import Interval
from nearfar.similarity.measure import Measure, between, row_by_row
from nearfar.similarity.reductions import OrderStatistic, Reduction, threshold_of
from nearfar.similarity.relation import Relation
from nearfar.similarity.stable import full_precision, normalize, taken
from nearfar.similarity.stored import Stored, whole


class DenseBlock:
    """See ``Block``."""

    def __init__(
        self,
        anchors: Tensor,
        candidates: Tensor,
        measure: Measure,
        relation: Relation,
        stored: Stored | None = None,
    ) -> None:
        candidates = whole(candidates, stored)
        same = candidates is anchors
        self.anchors = _prepare(anchors, measure)
        self.candidates = self.anchors if same else _prepare(candidates, measure)
        self.measure: Measure = measure
        self.relation = relation

    def __len__(self) -> int:
        return len(self.anchors)

    @property
    def parts(self) -> tuple[Tensor, None]:
        return self.candidates, None

    @cached_property
    def matrix(self) -> Tensor:
        """All similarities [anchor, candidate]."""
        return between(self.anchors, self.candidates, self.measure)

    def positives(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        """Return the very numbers that ``stream`` compares with."""
        return self.matrix[anchor, candidate]

    def at(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        if not len(self.candidates):
            return 0 * self.anchors[anchor].sum(1)
        return row_by_row(taken(self.anchors, anchor), taken(self.candidates, candidate), self.measure)

    def stream(
        self, interval: Interval, owners: Tensor, reductions: Sequence[Reduction]
    ) -> tuple[Tensor, ...]:
        every = torch.arange(len(self.anchors), device=owners.device)
        keep = self.relation.negative(every) & interval.holds(self.matrix, every)

        def one(reduction: Reduction) -> Tensor:
            if isinstance(reduction, OrderStatistic) and reduction.over == "batch":
                value = reduce(self.matrix.view(1, -1), keep.view(1, -1), reduction, 0.0)
                return value.expand(len(every))
            match reduction.per:
                case "anchor":
                    return reduce(self.matrix, keep, reduction, threshold_of(reduction))
                case "candidate":
                    return reduce(self.matrix.mT, keep.mT, reduction, threshold_of(reduction))
                case "positive":
                    return reduce(
                        taken(self.matrix, owners), keep[owners], reduction, threshold_of(reduction)
                    )

        return tuple(one(reduction) for reduction in reductions)

    def map(
        self, change: Callable[[Tensor], Tensor], candidates: Callable[[Tensor], Tensor] | None = None
    ) -> "DenseBlock":
        block = object.__new__(DenseBlock)
        block.anchors = change(self.anchors)
        same = self.candidates is self.anchors and candidates is None
        block.candidates = block.anchors if same else (candidates or change)(self.candidates)
        block.measure, block.relation = self.measure, self.relation
        return block


def _prepare(x: Tensor, measure: Measure) -> Tensor:
    x = full_precision(x)
    return normalize(x) if measure == "cosine" else x
