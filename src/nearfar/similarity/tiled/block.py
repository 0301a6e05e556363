"""Tiles of similarities, made, used and forgotten: memory grows with the vectors, never with the pairs.

The forward pass keeps only the reductions; the backward pass makes each tile again and turns its weights
into gradients of the vectors. (Where all tiles fit ``scan.KEPT`` bytes they wait for it instead.) A batch
against itself visits each tile above the diagonal once, for its rows and for its columns. No double
backward: use ``dense`` for that.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nearfar.similarity.interval import Interval
from nearfar.similarity.labels import SameClass
from nearfar.similarity.measure import Measure, is_product
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
from nearfar.similarity.stable import read
from nearfar.similarity.stored import Stored, columns, whole
from nearfar.similarity.threads import plainly
from nearfar.similarity.tiled.layout import Layout
from nearfar.similarity.tiled.operation import Job, Plan, Streamed
from nearfar.similarity.tiled.positives import SMALL, equal_classes_similarity, panel_similarity
from nearfar.similarity.tiled.similarities import at_pairs, similarities
from nearfar.similarity.tiled.sorted_rows import sorted_rows
from nearfar.similarity.tiled.whole_rows import draw_samples, order_statistic

TILE = 512
"""Side of a tile: larger ones leave the cache of a core, smaller ones cost more calls. Measured."""
MANY = 32
"""Entries of a product that take as long as one pair whose rows are gathered. Measured."""


class TiledBlock:
    """See ``Block``."""

    @plainly()
    def __init__(
        self,
        anchors: Tensor,
        candidates: Tensor,
        measure: Measure,
        relation: Relation,
        stored: Stored | None = None,
    ) -> None:
        symmetric = relation.symmetric and candidates is anchors and stored is None
        border = None if stored is None else len(candidates)
        self.width = len(candidates) + (0 if stored is None else len(stored))
        self.layout = Layout(relation, len(anchors), self.width, TILE, symmetric, border)
        unit = measure == "cosine"
        self.x = sorted_rows(anchors, self.layout.anchors.order, unit)
        same = symmetric or (candidates is anchors and self.layout.as_given)
        self.y = self.x if same else sorted_rows(candidates, self.layout.candidates.order, unit)
        self.stored = replace(stored, unit=True) if stored is not None and unit else stored
        self.measure: Measure = measure
        self.relation = relation

    @property
    def anchors(self) -> Tensor:
        return self.layout.anchors.unsorted(self.x)

    @property
    def candidates(self) -> Tensor:
        return whole(*self.parts)

    @property
    def parts(self) -> tuple[Tensor, Stored | None]:
        return self.layout.candidates.unsorted(self.y), self.stored

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
        if is_product(self.measure) and len(row) * MANY >= len(self) * self.width:
            block = self.layout.candidates.locate(column)[0]
            return panel_similarity(self.x, self.y, row, column, block, self.stored)
        return at_pairs(self.x, self.y, row, column, self.measure, (None, self.stored))

    @plainly()
    def at(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        if not self.width:
            return 0 * self.anchors[anchor].sum(1)
        places = self._places(anchor, candidate)
        return at_pairs(self.x, self.y, *places, self.measure, (None, self.stored))

    @plainly()
    def stream(
        self, interval: Interval, owners: Tensor, reductions: Sequence[Reduction]
    ) -> tuple[Tensor, ...]:
        side = self.layout.anchors
        bounds = Interval(
            *(
                None if x is None else side.sorted(x).to(self.x.dtype)
                for x in (interval.above, interval.below)
            )
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
            job = Job(layout, self.measure, bounds, plans, symmetric, self.stored)
            tables = [plan.table for plan in plans if plan.table is not None]
            for plan, result in zip(plans, Streamed.apply(self.x, self.y, job, *tables), strict=True):
                results[plan.number] = plan.unsort(result, layout)
        return tuple(results[number] for number in range(len(reductions)))

    def map(
        self, change: Callable[[Tensor], Tensor], candidates: Callable[[Tensor], Tensor] | None = None
    ) -> "TiledBlock":
        block = object.__new__(TiledBlock)
        block.x = change(self.x)
        if self.layout.symmetric:
            block.y, block.stored = block.x, None
        else:
            block.y, block.stored = _changed(candidates or change, self.y, self.stored)
        block.layout, block.measure, block.relation = self.layout, self.measure, self.relation
        block.width = self.width
        return block

    def _places(self, anchor: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
        return self.layout.anchors.places(anchor), self.layout.candidates.places(candidate)

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
            depth = int(read(rank.max())) + 1 if len(rank) else 1
            none = -torch.inf if isinstance(reduction, Max | ArgMax) else torch.inf
            table = self.x.new_full((depth, len(side)), none)
            table = table.index_put((rank, side.places(owners)), threshold)
            return Plan(number, reduction, table, False, owners, rank)
        table = side.sorted(threshold.expand(len(side)))[None]
        return Plan(number, reduction, table, over_candidates, owners)

    def _count(self, reduction: Count, owners: Tensor) -> Tensor:
        """Count all negatives of each row, without a pass."""
        relation = self.relation
        if relation.symmetric and relation.anchor_ids is None and isinstance(relation.kinship, SameClass):
            count = (len(self.x) - relation.kinship.sizes).to(self.x.dtype)
            return count[owners] if reduction.per == "positive" else count
        pairs = torch.stack(self.layout.others())
        distinct = torch.unique(pairs[0] * self.width + pairs[1])
        if reduction.per == "candidate":
            others = torch.bincount(distinct % max(1, self.width), minlength=self.width)
            return self.layout.candidates.unsorted(len(self.x) - others).to(self.x.dtype)
        others = torch.bincount(distinct // max(1, self.width), minlength=len(self.x))
        count = self.layout.anchors.unsorted(self.width - others).to(self.x.dtype)
        return count[owners] if reduction.per == "positive" else count

    def _by_strips(self, reduction: OrderStatistic | Sample, interval: Interval) -> Tensor:
        with torch.no_grad():
            s = similarities(self.x.detach(), columns(self.y.detach(), self.stored), self.measure)
            if isinstance(reduction, OrderStatistic):
                return order_statistic(reduction, self.layout, s, interval)
            return draw_samples(reduction, self.layout, s, interval)


def _changed(
    change: Callable[[Tensor], Tensor], y: Tensor, stored: Stored | None
) -> tuple[Tensor, Stored | None]:
    """Change candidates; where the change itself is learned, those that are stored get a gradient to give."""
    if stored is None:
        return change(y), None
    if torch.is_grad_enabled() and change(stored[:1]).requires_grad:
        return change(whole(y, stored)), None
    return change(y), stored.changed(change)
