"""Tiles of similarities, made, used and forgotten: memory grows with the vectors, never with the pairs.

The forward pass keeps only the reductions; the backward pass makes each tile again and turns its weights
into gradients of the vectors. A batch against itself visits each tile above the diagonal once, for its rows
and for its columns. No double backward: use ``dense`` for that.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nearfar.similarity.interval import Interval
from nearfar.similarity.labels import SameClass
from nearfar.similarity.layout import Layout
from nearfar.similarity.measure import Measure, is_product
from nearfar.similarity.panels import SMALL, equal_classes_similarity, panel_similarity
from nearfar.similarity.products import at_pairs, similarities
from nearfar.similarity.reductions import (
    ArgMax,
    Count,
    Max,
    OrderStatistic,
    Reduction,
    Sample,
    threshold_of,
)
from nearfar.similarity.relation import Relation
from nearfar.similarity.rows import sorted_rows
from nearfar.similarity.streamed import Job, Plan, Streamed
from nearfar.similarity.strips import draw_samples, order_statistic
from nearfar.similarity.threads import plainly

TILE = 512
"""Side of a tile: larger ones leave the cache of a core, smaller ones cost more calls. Measured."""


class TiledBlock:
    """See ``Block``."""

    @plainly()
    def __init__(self, anchors: Tensor, candidates: Tensor, measure: Measure, relation: Relation) -> None:
        symmetric = relation.symmetric and candidates is anchors
        self.layout = Layout(relation, len(anchors), len(candidates), TILE, symmetric)
        unit = measure == "cosine"
        self.x = sorted_rows(anchors, self.layout.anchors.order, unit)
        self.y = self.x if symmetric else sorted_rows(candidates, self.layout.candidates.order, unit)
        self.measure: Measure = measure
        self.relation = relation

    @property
    def anchors(self) -> Tensor:
        return self.x[self.layout.anchors.place]

    @property
    def candidates(self) -> Tensor:
        return self.y[self.layout.candidates.place]

    def __len__(self) -> int:
        return len(self.x)

    @plainly()
    def positives(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        row, column = self._places(anchor, candidate)
        if is_product(self.measure) and self.layout.pairs_lie_together:
            size = self.layout.class_size if self.y is self.x else None
            if size is not None and size <= SMALL:
                self.x, s = equal_classes_similarity(self.x, size, row, column)
                self.y = self.x
                return s
            return panel_similarity(self.x, self.y, row, column)
        return at_pairs(self.x, self.y, row, column, self.measure)

    @plainly()
    def at(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        if not len(self.y):
            return 0 * self.anchors[anchor].sum(1)
        return at_pairs(self.x, self.y, *self._places(anchor, candidate), self.measure)

    @plainly()
    def stream(
        self, interval: Interval, owners: Tensor, reductions: Sequence[Reduction]
    ) -> tuple[Tensor, ...]:
        order = self.layout.anchors.order
        bounds = Interval(
            *(None if x is None else x[order].to(self.x.dtype) for x in (interval.above, interval.below))
        )
        results: dict[int, Tensor] = {}
        plans: list[Plan] = []
        for number, reduction in enumerate(reductions):
            if isinstance(reduction, OrderStatistic | Sample):
                results[number] = self._by_strips(reduction, bounds)
            elif (
                isinstance(reduction, Count)
                and not isinstance(reduction.above, Tensor)
                and reduction.above == -torch.inf
                and not interval
            ):
                results[number] = self._count(reduction, owners)
            else:
                plans.append(self._plan(number, reduction, owners))
        if plans:
            layout, symmetric = self.layout, self.layout.symmetric
            if symmetric and bounds and any(plan.over_candidates for plan in plans):
                # The interval belongs to the anchors: the tile of (i, j) is then not that of (j, i).
                symmetric = False
                layout = Layout(self.relation, len(self.x), len(self.y), TILE, symmetric)
            job = Job(layout, self.measure, bounds, plans, symmetric)
            tables = [plan.table for plan in plans if plan.table is not None]
            for plan, result in zip(plans, Streamed.apply(self.x, self.y, job, *tables), strict=True):
                results[plan.number] = plan.unsort(result, layout)
        return tuple(results[number] for number in range(len(reductions)))

    def map(self, change: Callable[[Tensor], Tensor]) -> "TiledBlock":
        block = object.__new__(TiledBlock)
        block.x = change(self.x)
        block.y = block.x if self.y is self.x else change(self.y)
        block.layout, block.measure, block.relation = self.layout, self.measure, self.relation
        return block

    def _places(self, anchor: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
        return self.layout.anchors.place[anchor], self.layout.candidates.place[candidate]

    def _plan(self, number: int, reduction: Reduction, owners: Tensor) -> Plan:
        threshold = threshold_of(reduction)
        side = self.layout.candidates if reduction.per == "candidate" else self.layout.anchors
        over_candidates = reduction.per == "candidate"
        if not isinstance(threshold, Tensor):
            empty = torch.inf if isinstance(reduction, Max | ArgMax) else None
            table = None
            if empty is not None and threshold != torch.inf:
                table = self.x.new_full((1, len(side)), threshold)
            return Plan(number, reduction, table, over_candidates, owners)
        threshold = threshold.to(self.x.dtype)
        if reduction.per == "positive" and threshold.ndim:
            first = torch.searchsorted(owners, owners)
            rank = torch.arange(len(owners), device=owners.device) - first
            depth = int(rank.max()) + 1 if len(rank) else 1
            none = -torch.inf if isinstance(reduction, Max | ArgMax) else torch.inf
            table = self.x.new_full((depth, len(side)), none)
            table = table.index_put((rank, side.place[owners]), threshold)
            return Plan(number, reduction, table, False, owners, rank)
        table = threshold.expand(len(side))[side.order][None]
        return Plan(number, reduction, table, over_candidates, owners)

    def _count(self, reduction: Count, owners: Tensor) -> Tensor:
        """Count all negatives of each row, without a pass."""
        relation = self.relation
        if relation.symmetric and relation.anchor_ids is None and isinstance(relation.kinship, SameClass):
            count = (len(self.x) - relation.kinship.sizes).to(self.x.dtype)
            return count[owners] if reduction.per == "positive" else count
        pairs = torch.stack(self.layout.others())
        distinct = torch.unique(pairs[0] * len(self.y) + pairs[1])
        if reduction.per == "candidate":
            others = torch.bincount(distinct % max(1, len(self.y)), minlength=len(self.y))
            return (len(self.x) - others)[self.layout.candidates.place].to(self.x.dtype)
        others = torch.bincount(distinct // max(1, len(self.y)), minlength=len(self.x))
        count = (len(self.y) - others)[self.layout.anchors.place].to(self.x.dtype)
        return count[owners] if reduction.per == "positive" else count

    def _by_strips(self, reduction: OrderStatistic | Sample, interval: Interval) -> Tensor:
        with torch.no_grad():
            s = similarities(self.x.detach(), self.y.detach(), self.measure)
            if isinstance(reduction, OrderStatistic):
                return order_statistic(reduction, self.layout, s, interval)
            return draw_samples(reduction, self.layout, s, interval)
