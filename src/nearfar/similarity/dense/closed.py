"""The reductions over a matrix of similarities in memory, each with its slope dL/dS in closed form."""

from collections.abc import Sequence
from functools import cache
from math import inf
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.compiler import is_compiling

from nearfar.similarity.curves import Curve, curve_of
from nearfar.similarity.dense.products import Products, by_autograd, matrix
from nearfar.similarity.dense.reduce import reduce
from nearfar.similarity.reductions import (
    CURVES,
    ArgMax,
    Count,
    LogSumExp,
    Max,
    OrderStatistic,
    Sample,
    Sum,
    Threshold,
    TopK,
    threshold_of,
)

STEEPEST = 35.0
"""Scale up to which e^(a (s - 1)) of a cosine is an ordinary number of float32, as are sums of it."""


TINIEST = 1e-36
"""Less than any sum of such powers."""

KINDS: dict[type, str] = {LogSumExp: "log", Sum: "sum", **dict.fromkeys(CURVES[2:], "curve")}
KINDS |= dict.fromkeys((Count, ArgMax, TopK, OrderStatistic, Sample), "number")
"""How the slope of each reduction is found; see ``Asked``."""


class Asked:
    """A reduction of each row, over the columns that are not left out.

    Attributes:
        negated: of -s in place of s.
        threshold: of a curve, what similarities are compared with.
        curve: the function that is summed.
        kind: "log", "sum" or "curve" where its slope is known, "number" where it has none; else it is left to
            plain autograd.
        narrow: whether one shift serves the powers of all rows, so that none leaves the ordinary numbers.
    """

    __slots__ = ("curve", "kind", "left_out", "narrow", "negated", "reduction", "threshold")

    threshold: Threshold | None
    curve: Curve

    def __init__(
        self,
        reduction: Any,
        left_out: Bool[Tensor, "row column"],
        negated: bool = False,
        bounded: bool = False,
    ) -> None:
        """Ask.

        Args:
            bounded: whether s, and not -s, is a cosine.
        """
        self.reduction, self.left_out, self.negated = reduction, left_out, negated
        self.kind = kind = KINDS.get(type(reduction), "")
        self.narrow, self.threshold = False, None
        if kind == "log":
            self.narrow = bounded and reduction.floor is None and abs(reduction.scale) <= STEEPEST
        elif kind == "curve":
            self.threshold, self.curve = reduction.threshold, curve_of(reduction)

    def held_against(self, s: Float[Tensor, "row column"]) -> Tensor:
        """The threshold as a tensor, a column where each row has its own."""
        t = self.threshold
        if isinstance(t, Tensor):
            return t[:, None] if t.ndim else t
        return constant(t, s.dtype, s.device)

    def plain(self, s: Float[Tensor, "row column"]) -> Tensor:
        """Reduce by plain autograd."""
        s, t = -s if self.negated else s, threshold_of(self.reduction)
        if isinstance(self.reduction, Count):
            return self._count(s, t).sum(1, dtype=s.dtype)
        if isinstance(self.reduction, Max | ArgMax) and isinstance(t, float) and t == inf and s.shape[1]:
            value, column = s.masked_fill(self.left_out, -inf).max(1)
            return value if isinstance(self.reduction, Max) else column.masked_fill_(value == -inf, -1)
        return reduce(s, ~self.left_out, self.reduction, t)

    def _count(self, s: Tensor, t: Threshold) -> Bool[Tensor, "row column"]:
        if isinstance(t, Tensor):
            return (s > (t[:, None] if t.ndim else t)).masked_fill_(self.left_out, False)
        return ~self.left_out if t == -inf else (s > t).masked_fill_(self.left_out, False)


def reduced(
    x: Float[Tensor, "row column"] | Float[Tensor, "row dim"],
    asked: Sequence[Asked],
    y: Float[Tensor, "column dim"] | None = None,
    numbers: Products | None = None,
) -> Sequence[Tensor]:
    """Return each reduction of the rows of a matrix, all in one operation; the same as ``reduce``.

    Args:
        x: the matrix; with ``numbers`` the rows whose products with the columns ``y`` it is (with each other
            for None), which are then part of the operation.
        asked: with ``numbers``, reductions whose slope is known, or that have none.
    """
    compiled = is_compiling()
    closed = [] if compiled else [each for each in asked if each.kind not in ("", "number")]
    found = ()
    if closed:
        thresholds = [each.threshold for each in closed if isinstance(each.threshold, Tensor)]
        found = _Reduced.apply(x, y, numbers, closed, *thresholds)  # pyrefly: ignore
        if len(closed) == len(asked):
            return found
    s = x if numbers is None else matrix(x, y, numbers) if compiled else numbers.of(x, y)
    there = iter(found)
    return [next(there) if each in closed else each.plain(s) for each in asked]


class _Reduced(torch.autograd.Function):
    """Reductions of a matrix given, or of the products of rows with columns."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor | None, numbers: Products | None, asked: list[Asked], *_: Tensor
    ) -> tuple[Tensor, ...]:
        """Reduce; thresholds are named once more, since they may have a gradient."""
        s = x if numbers is None else numbers.of(x, y)
        minus: Tensor | None = None
        values, kept, powers = [], [], {}
        for each in asked:
            of = s
            if each.negated:
                of = minus = -s if minus is None else minus
            if each.narrow:
                value, *shares = _narrow(of, each, powers)
                kept += shares
            elif each.kind == "log":
                value, *shares = _logsumexp(of, each.left_out, each.reduction)
                kept += shares
            elif each.kind == "sum":
                value = of.masked_fill(each.left_out, 0.0).sum(1)
            else:
                value = each.curve.value(of, each.held_against(of), None)
                value = value.masked_fill_(each.left_out, 0.0).sum(1)
            values.append(value)
        ctx.save_for_backward(x, y)
        ctx.made, ctx.asked, ctx.numbers = (s, minus, kept), asked, numbers
        ctx.set_materialize_grads(False)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (x, y), numbers = ctx.saved_tensors, ctx.numbers
        if torch.is_grad_enabled():
            return _differentiable(ctx.asked, x, y, numbers, grad_outputs)
        s, minus, kept = ctx.made
        place, ds, slopes = 0, None, []
        for each, g in zip(ctx.asked, grad_outputs, strict=True):
            reduction, has_threshold = each.reduction, isinstance(each.threshold, Tensor)
            if g is None:
                slopes += [None] * has_threshold
                place += 2 * (each.kind == "log")
                continue
            of = minus if each.negated else s
            if each.kind == "log":
                shares, total = kept[place], kept[place + 1]
                place += 2
                scale = constant(reduction.scale, g.dtype, g.device)
                share = (g * scale).div_(total.clamp(min=TINIEST if each.narrow else 1.0))
                slope = shares * share.unsqueeze(1)
                if reduction.floor is not None:
                    slope.mul_(_slope(of, reduction))
            elif each.kind == "sum":
                slope = g.unsqueeze(1).masked_fill(each.left_out, 0.0)
            else:
                slope = each.curve.slope(of, each.held_against(of), torch.empty_like(of))
                slope.masked_fill_(each.left_out, 0.0).mul_(g.unsqueeze(1))
            if has_threshold:
                slopes.append(slope.sum(1).neg_().sum_to_size(each.threshold.shape))
            if each.negated:
                slope.neg_()
            ds = slope if ds is None else ds.add_(slope)
        if ds is None or numbers is None:
            return ds, None, None, None, *slopes
        return *numbers.back(ds, x, y, ctx.needs_input_grad), None, None, *slopes


@cache
def constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a number as a tensor, made once: a plain number would be converted every time."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.full((), value, dtype=dtype, device=device)


def _logsumexp(
    s: Tensor, left_out: Tensor, reduction: LogSumExp
) -> tuple[Float[Tensor, " row"], Float[Tensor, "row column"], Float[Tensor, " row"]]:
    """Return log Σ e^z, each e^z over the largest, and their sums, 1 or more where there are any."""
    start = constant(-reduction.scale * reduction.shift, s.dtype, s.device)
    z = torch.add(start, s, alpha=reduction.scale)
    if reduction.floor is not None:
        z.mul_((s - reduction.floor).clamp_(min=0.0))
    z.masked_fill_(left_out, -inf)
    # Where nothing is left, all shares are 0: -inf less the least number that there is.
    top = z.amax(1, keepdim=True) if z.shape[1] else z.new_zeros(len(z), 1)
    top.clamp_(min=torch.finfo(z.dtype).min)
    total = z.sub_(top).exp_().sum(1)
    return total.log().add_(top.squeeze(1)), z, total


def _narrow(s: Tensor, asked: Asked, powers: dict[float, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same of cosines, all powers over that of 1 (or -1), whatever the largest of a row.

    Args:
        powers: those that are known, by scale; others are added.
    """
    reduction = asked.reduction
    assert isinstance(reduction, LogSumExp)
    end = 1.0 if reduction.scale > 0 else -1.0
    if reduction.scale not in powers:
        start = constant(-reduction.scale * end, s.dtype, s.device)
        powers[reduction.scale] = torch.add(start, s, alpha=reduction.scale).exp_()
    shares = powers[reduction.scale].masked_fill(asked.left_out, 0.0)
    total = shares.sum(1)
    start = constant(reduction.scale * (end - reduction.shift), s.dtype, s.device)
    return total.log().add_(start), shares, total


def _slope(s: Tensor, reduction: LogSumExp) -> Tensor:
    """The slope of max(0, s - f) (s - b)."""
    assert reduction.floor is not None
    above = (s - reduction.floor).clamp_(min=0.0)
    return above if reduction.frozen else above.add_((s - reduction.shift).mul_(above > 0))


def _differentiable(
    asked: Sequence[Asked],
    x: Tensor,
    y: Tensor | None,
    numbers: Products | None,
    gradients: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Return the slopes so that they have a gradient of their own, by plain autograd."""
    s = x if numbers is None else by_autograd(x, y, numbers.unit)[0]
    given = (x, y, *(each.threshold for each in asked if isinstance(each.threshold, Tensor)))
    wanted = [z for z in given if z is not None and z.requires_grad]
    outputs = [(each.plain(s), g) for each, g in zip(asked, gradients, strict=True) if g is not None]
    values, slopes = zip(*outputs, strict=True)
    found = iter(torch.autograd.grad(values, wanted, slopes, create_graph=True, allow_unused=True))
    dx, dy, *rest = [next(found) if z is not None and z.requires_grad else None for z in given]
    return dx, dy, None, None, *rest
