"""One pass over the tiles as an operation with a gradient: what is asked, and what comes back."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nearfar.similarity.curves import curve_of
from nearfar.similarity.interval import Interval
from nearfar.similarity.measure import Measure
from nearfar.similarity.reductions import (
    ArgMax,
    Count,
    HingeSum,
    LogSumExp,
    Max,
    Min,
    Reduction,
    SigmoidSquareSum,
    SigmoidSum,
    SoftMean,
    SoftplusSum,
    SquaredHingeSum,
    Sum,
    TopK,
    threshold_of,
)
from nearfar.similarity.stable import places_in, read, taken
from nearfar.similarity.stored import Columns, Stored, columns
from nearfar.similarity.threads import plainly
from nearfar.similarity.tiled.curve_steps import CurveStep
from nearfar.similarity.tiled.extreme_steps import ExtremeStep, TopKStep
from nearfar.similarity.tiled.layout import Layout, Side
from nearfar.similarity.tiled.ranked_steps import RankedStep
from nearfar.similarity.tiled.similarities import push_pairs, similarities
from nearfar.similarity.tiled.softmax_steps import SoftmaxStep
from nearfar.similarity.tiled.two_passes import AnyStep, Scan, find


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
            case (
                Sum()
                | Count()
                | HingeSum()
                | SquaredHingeSum()
                | SoftplusSum()
                | SigmoidSum()
                | SigmoidSquareSum()
            ):
                curve = curve_of(reduction)
                if table is not None and RankedStep.suits(curve, table):
                    return RankedStep(curve, table, side, over, like)
                threshold = threshold_of(reduction) if table is None else table
                return CurveStep(curve, threshold, side, over, like)
        raise AssertionError(reduction)

    def unsort(self, result: Tensor, layout: Layout) -> Tensor:
        """Bring a result [row] or [threshold, row] or [row, k] to the order that was given."""
        side: Side = layout.candidates if self.reduction.per == "candidate" else layout.anchors
        other: Side = layout.anchors if self.reduction.per == "candidate" else layout.candidates
        if self.rank is not None:
            result = result[self.rank, side.places(self.owners)]
        else:
            if self.table is not None:
                result = result[0]
            result = side.unsorted(result)
            if self.reduction.per == "positive":
                result = taken(result, self.owners)
        return other.rows(result) if isinstance(self.reduction, ArgMax | TopK) else result


@dataclass
class Job:
    """What one pass is to do.

    Attributes:
        stored: candidates without gradient that follow the others.
    """

    layout: Layout
    measure: Measure
    interval: Interval
    plans: list[Plan]
    symmetric: bool
    stored: Stored | None = None


class Streamed(torch.autograd.Function):
    """All reductions of one pass; see the module."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, job: Job, *tables: Tensor) -> tuple[Tensor, ...]:
        x, y = x.detach(), y.detach()
        s = similarities(x, x if job.symmetric else columns(y, job.stored), job.measure)
        bounds = s.bounds()
        left = iter([table.detach() for table in tables])
        steps = [plan.step(None if plan.table is None else next(left), job, bounds, x) for plan in job.plans]
        scan = Scan(job.layout, s, job.interval, steps, job.symmetric)
        learns = [step for step in steps if step.differentiable]
        sums = [step for step in learns if isinstance(step, CurveStep) and step.curve.added]
        one_pass = len(learns) == len(sums) == 1 and any(ctx.needs_input_grad)
        ctx.ahead = job.stored is not None and any(ctx.needs_input_grad) and _can_be_ahead(learns)
        one_pass = one_pass or ctx.ahead
        need_y = ctx.needs_input_grad[1] and not ctx.ahead
        again = any(ctx.needs_input_grad) and bool(learns) and (ctx.ahead or not one_pass)
        ready = scan.forward(with_weights=one_pass, need_y=need_y, only_stored=ctx.ahead, again=again)
        ctx.job, ctx.scan, ctx.ready = job, scan, ready if one_pass else None
        ctx.save_for_backward(x, y)
        results = []
        for plan, step in zip(job.plans, steps, strict=True):
            if isinstance(plan.reduction, ArgMax):
                assert isinstance(step, ExtremeStep)
                place = find(scan, step)
                results.append(place if plan.table is not None else place[0])
            else:
                # A tensor of its own: the steps stay on the operation, and an output that they held would
                # keep the operation, and with it all that the call made, for good.
                results.append(step.result().detach())
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
                every = columns(y, job.stored)
                _push_extreme(scan, step, gradient, x, every, job.measure, dx, dx if job.symmetric else dy)
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
    if ctx.ahead:
        return _with_stored(ctx, *taught[0])
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


def _can_be_ahead(learns: list[AnyStep]) -> bool:
    """Whether the gradient through stored candidates can be gathered before its weight in a row is known."""
    if len(learns) != 1 or not isinstance(learns[0], CurveStep | SoftmaxStep):
        return False
    return not learns[0].over_candidates and learns[0].ahead()


def _with_stored(ctx: Any, step: AnyStep, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
    """The same where the first pass has gathered what stored candidates give for an upstream of 1."""
    assert isinstance(step, CurveStep | SoftmaxStep)
    slopes = step.slopes.clone() if isinstance(step, CurveStep) else None
    step.receive(gradient.contiguous())
    dx, dy = replace(ctx.scan, steps=[step]).backward(ctx.needs_input_grad[1])
    dx.addcmul_(ctx.ready[0], step.share()[:, None])
    if isinstance(step, CurveStep) and slopes is not None:
        step.slopes += slopes
    return dx, dy


def _common_value(gradient: Tensor, table: Tensor | None) -> Tensor | None:
    """The value that all gradients of real thresholds have, if they have one."""
    real = gradient if table is None else gradient.flatten()[places_in((table < torch.inf).flatten())]
    if not len(real):
        return gradient.new_zeros(())
    return real.flatten()[0] if read((real == real.flatten()[0]).all()) else None


def _push_extreme(
    scan: Scan,
    step: ExtremeStep,
    gradient: Tensor,
    x: Tensor,
    y: Tensor | Columns,
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
