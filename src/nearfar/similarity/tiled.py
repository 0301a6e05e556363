"""Tiles of similarities, made, used and forgotten: memory grows with the vectors, never with the pairs.

The forward pass keeps only the reductions; the backward pass makes each tile again and turns its weights
into gradients of the vectors. A batch against itself visits each tile above the diagonal once, for its rows
and for its columns. No double backward: use ``dense`` for that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nearfar.similarity.extreme_steps import ExtremeStep, TopKStep
from nearfar.similarity.interval import Interval
from nearfar.similarity.labels import SameClass
from nearfar.similarity.layout import Layout, Side
from nearfar.similarity.measure import Measure, is_product
from nearfar.similarity.panels import SMALL, equal_classes_similarity, panel_similarity
from nearfar.similarity.products import at_pairs, push_pairs, similarities
from nearfar.similarity.reductions import (
    ArgMax,
    Count,
    HingeSum,
    LogSumExp,
    Max,
    Min,
    OrderStatistic,
    Reduction,
    Sample,
    SigmoidSquareSum,
    SoftMean,
    SoftplusSum,
    SquaredHingeSum,
    Sum,
    TopK,
    threshold_of,
)
from nearfar.similarity.relation import Relation
from nearfar.similarity.rows import sorted_rows
from nearfar.similarity.scan import AnyStep, Scan, find
from nearfar.similarity.softmax_steps import SoftmaxStep
from nearfar.similarity.steps import CurveStep, curve_of
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
                return equal_classes_similarity(self.x, size, row, column)
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
            for plan, result in zip(plans, _Streamed.apply(self.x, self.y, job, *tables), strict=True):
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

    def _plan(self, number: int, reduction: Reduction, owners: Tensor) -> "Plan":
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
        pairs = torch.stack(self.layout.others)
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


@dataclass
class Plan:
    """One reduction in sorted places.

    Attributes:
        number: its place among the reductions asked for.
        table: thresholds [threshold, row] in sorted places, or None.
        rank: for thresholds of positive pairs, the line of the table that each pair's threshold is on.
    """

    number: int
    reduction: Reduction
    table: Tensor | None
    over_candidates: bool
    owners: Tensor
    rank: Tensor | None = None

    def step(
        self, table: Tensor | None, job: "Job", scan_bounds: tuple[float, float], like: Tensor
    ) -> AnyStep:
        layout, reduction = job.layout, self.reduction
        over = self.over_candidates and not job.symmetric
        side, other = (layout.candidates, layout.anchors) if over else (layout.anchors, layout.candidates)
        match reduction:
            case LogSumExp() | SoftMean():
                return SoftmaxStep(reduction, side, scan_bounds, like, over)
            case Max() | ArgMax():
                only_above = job.interval.below is None and not self.over_candidates
                above = job.interval.above if only_above else None
                return ExtremeStep(table, side, other, over, like, above=above)
            case Min():
                return ExtremeStep(None, side, other, over, like, sign=-1.0)
            case TopK(k=k):
                return TopKStep(k, side, other, over, like)
            case Sum() | Count() | HingeSum() | SquaredHingeSum() | SoftplusSum() | SigmoidSquareSum():
                threshold = threshold_of(reduction) if table is None else table
                return CurveStep(curve_of(reduction), threshold, side, over, like)
        raise AssertionError(reduction)

    def unsort(self, result: Tensor, layout: Layout) -> Tensor:
        """Bring a result [row] or [threshold, row] or [row, k] to the order that was given."""
        side: Side = layout.candidates if self.reduction.per == "candidate" else layout.anchors
        other: Side = layout.anchors if self.reduction.per == "candidate" else layout.candidates
        if self.rank is not None:
            result = result[self.rank, side.place[self.owners]]
        else:
            if self.table is not None:
                result = result[0]
            result = result[side.place]
            if self.reduction.per == "positive":
                result = result[self.owners]
        if isinstance(self.reduction, ArgMax | TopK):
            there = torch.cat([other.order, other.order.new_full((1,), -1)])
            return there[result]  # -1, none, is the last
        return result


@dataclass
class Job:
    """What one pass is to do."""

    layout: Layout
    measure: Measure
    interval: Interval
    plans: list[Plan]
    symmetric: bool


class _Streamed(torch.autograd.Function):
    """All reductions of one pass; see the module."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, job: Job, *tables: Tensor) -> tuple[Tensor, ...]:
        x, y = x.detach(), y.detach()
        s = similarities(x, x if job.symmetric else y, job.measure)
        bounds = s.bounds()
        left = iter([table.detach() for table in tables])
        steps = [plan.step(None if plan.table is None else next(left), job, bounds, x) for plan in job.plans]
        scan = Scan(job.layout, s, job.interval, steps, job.symmetric)
        learns = [step for step in steps if step.differentiable]
        one_pass = len(learns) == 1 and isinstance(learns[0], CurveStep) and any(ctx.needs_input_grad)
        ready = scan.forward(with_weights=one_pass, need_y=ctx.needs_input_grad[1])
        ctx.job, ctx.scan, ctx.ready = job, scan, ready if one_pass else None
        ctx.save_for_backward(x, y)
        results = []
        for plan, step in zip(job.plans, steps, strict=True):
            if isinstance(plan.reduction, ArgMax):
                assert isinstance(step, ExtremeStep)
                place = find(scan, step)
                results.append(place if plan.table is not None else place[0])
            else:
                results.append(step.result())
        ctx.mark_non_differentiable(
            *(
                result
                for plan, result in zip(job.plans, results, strict=True)
                if isinstance(plan.reduction, ArgMax | TopK | Count)
            )
        )
        ctx.set_materialize_grads(False)
        return tuple(results)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @plainly()
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        gradients, (x, y) = grad_outputs, ctx.saved_tensors
        job, scan = ctx.job, ctx.scan
        taught = [
            (step, gradient)
            for step, gradient in zip(scan.steps, gradients, strict=True)
            if gradient is not None and not isinstance(step, TopKStep)
        ]
        dx, dy = _dense_gradient(ctx, [(s, g) for s, g in taught if s.differentiable])
        if dx is None:
            dx = torch.zeros_like(x)
            dy = None if job.symmetric else torch.zeros_like(y)
        for step, gradient in taught:
            if isinstance(step, ExtremeStep):
                _push_extreme(scan, step, gradient, x, y, job.measure, dx, dx if job.symmetric else dy)
        by_table = [
            -step.slopes * gradient if isinstance(step, CurveStep) and gradient is not None else None
            for step, gradient, plan in zip(scan.steps, gradients, job.plans, strict=True)
            if plan.table is not None
        ]
        return dx, dy, None, *by_table


def _dense_gradient(
    ctx: Any,
    taught: list[tuple[AnyStep, Tensor]],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the vectors through sums over all pairs."""
    scan: Scan = ctx.scan
    if not taught:
        return None, None
    if ctx.ready is not None:
        step, gradient = taught[0]
        assert isinstance(step, CurveStep)
        same = _common_value(gradient, step.matrix)
        if same is not None:
            return tuple(None if d is None else d * same for d in ctx.ready)  # pyrefly: ignore
    for step, gradient in taught:
        step.receive(gradient.contiguous())
    taught_steps = [step for step, _ in taught]
    return replace(scan, steps=taught_steps).backward(ctx.needs_input_grad[1])


def _common_value(gradient: Tensor, table: Tensor | None) -> Tensor | None:
    """The value that all gradients of real thresholds have, if they have one."""
    real = gradient if table is None else gradient[table < torch.inf]
    if not len(real):
        return gradient.new_zeros(())
    return real.flatten()[0] if bool((real == real.flatten()[0]).all()) else None


def _push_extreme(
    scan: Scan,
    step: ExtremeStep,
    gradient: Tensor,
    x: Tensor,
    y: Tensor,
    measure: Measure,
    dx: Tensor,
    dy: Tensor | None,
) -> None:
    gradient = gradient.view(step.value.shape)
    place = find(scan, step)
    for k in range(len(place)):
        rows = torch.nonzero((place[k] >= 0) & (gradient[k] != 0)).squeeze(1)
        other, g = place[k, rows], gradient[k, rows]
        if step.over_candidates:
            rows, other = other, rows
        push_pairs(g, x, y, rows, other, measure, dx, dy)
