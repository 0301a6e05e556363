"""The reductions over a matrix of similarities in memory, each with its slope dL/dS in closed form."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nearfar.similarity.curves import curve_of
from nearfar.similarity.dense.reduce import reduce
from nearfar.similarity.reductions import (
    CURVES,
    Count,
    LogSumExp,
    Reduction,
    Sum,
    Threshold,
    threshold_of,
)

STEEPEST = 35.0
"""Scale up to which e^(a (s - 1)) of a cosine is an ordinary number of float32, as are sums of it."""


TINIEST = 1e-36
"""Less than any sum of such powers."""


class Asked:
    """A reduction of each row, over the columns that are not left out.

    Attributes:
        negated: of -s in place of s.
        threshold: what similarities are compared with, in a column where each row has its own.
        kind: "log" or "curve" where its slope is known; else it is plain autograd's, or it has none.
        narrow: whether one shift serves the powers of all rows, so that none leaves the ordinary numbers.
    """

    __slots__ = ("kind", "left_out", "narrow", "negated", "reduction", "threshold")

    def __init__(
        self,
        reduction: Reduction,
        left_out: Bool[Tensor, "row column"],
        negated: bool = False,
        bounded: bool = False,
    ) -> None:
        """Ask.

        Args:
            bounded: whether s is a cosine.
        """
        self.reduction, self.left_out, self.negated = reduction, left_out, negated
        self.narrow, self.threshold = False, 0.0
        if isinstance(reduction, LogSumExp):
            self.kind = "log"
            self.narrow = (
                bounded and not negated and reduction.floor is None and abs(reduction.scale) <= STEEPEST
            )
        else:
            self.kind = "curve" if isinstance(reduction, CURVES) and not isinstance(reduction, Count) else ""
            self.threshold = threshold_of(reduction)

    @property
    def column(self) -> Threshold:
        """The threshold in a column."""
        t = self.threshold
        return t[:, None] if isinstance(t, Tensor) and t.ndim else t

    def plain(self, s: Float[Tensor, "row column"]) -> Tensor:
        """Reduce by plain autograd."""
        if isinstance(self.reduction, Count):
            there = (-s if self.negated else s) > self.column
            return (there & ~self.left_out).sum(1, dtype=s.dtype)
        return reduce(-s if self.negated else s, ~self.left_out, self.reduction, self.threshold)


def reduced(s: Float[Tensor, "row column"], asked: Sequence[Asked]) -> list[Tensor]:
    """Return each reduction of the rows of ``s``, all in one operation; the same as ``reduce``."""
    if torch.compiler.is_compiling():
        return [each.plain(s) for each in asked]
    closed = [each for each in asked if each.kind]
    if not closed:
        return [each.plain(s) for each in asked]
    thresholds = [each.threshold for each in closed if isinstance(each.threshold, Tensor)]
    found = iter(_Reduced.apply(s, closed, *thresholds))  # pyrefly: ignore
    return [next(found) if each.kind else each.plain(s) for each in asked]


class _Reduced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, asked: list[Asked], *_: Tensor) -> tuple[Tensor, ...]:
        """Reduce; thresholds are named once more, since they may have a gradient."""
        minus: Tensor | None = None
        values, kept, powers = [], [], {}
        for each in asked:
            of, reduction = s, each.reduction
            if each.negated:
                of = minus = -s if minus is None else minus
            if isinstance(reduction, LogSumExp):
                made = _narrow(of, each, powers) if each.narrow else _logsumexp(of, each.left_out, reduction)
                values.append(made[0])
                kept += made[1:]
            elif isinstance(reduction, Sum):
                values.append(of.masked_fill(each.left_out, 0.0).sum(1))
            else:
                value = curve_of(reduction).value(of, each.column, torch.empty_like(of))  # pyrefly: ignore
                values.append(value.masked_fill_(each.left_out, 0.0).sum(1))
        ctx.save_for_backward(s, minus, *kept)
        ctx.asked = asked
        ctx.set_materialize_grads(False)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        s, minus, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(ctx, s, grad_outputs)
        place, ds, slopes = 0, None, []
        for each, g in zip(ctx.asked, grad_outputs, strict=True):
            reduction, has_threshold = each.reduction, isinstance(each.threshold, Tensor)
            if g is None:
                slopes += [None] * has_threshold
                place += 2 * (each.kind == "log")
                continue
            of, g = minus if each.negated else s, g[:, None]  # noqa: PLW2901, a column
            if isinstance(reduction, LogSumExp):
                shares, total = kept[place], kept[place + 1]
                place += 2
                scale = constant(reduction.scale, g.dtype, g.device)
                slope = shares * (g * scale).div_(total.clamp(min=TINIEST if each.narrow else 1.0))
                if reduction.floor is not None:
                    slope.mul_(_slope(of, reduction))
            elif isinstance(reduction, Sum):
                slope = g.masked_fill(each.left_out, 0.0)
            else:
                slope = curve_of(reduction).slope(of, each.column, torch.empty_like(of))
                slope.masked_fill_(each.left_out, 0.0).mul_(g)
            if has_threshold:
                slopes.append(slope.sum(1).neg_().sum_to_size(each.threshold.shape))
            if each.negated:
                slope.neg_()
            ds = slope if ds is None else ds.add_(slope)
        return ds, None, *slopes


@cache
def constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a number as a tensor, made once: a plain number would be converted every time."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.full((), value, dtype=dtype, device=device)


def _logsumexp(
    s: Tensor, left_out: Tensor, reduction: LogSumExp
) -> tuple[Float[Tensor, " row"], Float[Tensor, "row column"], Float[Tensor, "row 1"]]:
    """Return log Σ e^z, each e^z over the largest, and their sums, 1 or more where there are any."""
    start = constant(-reduction.scale * reduction.shift, s.dtype, s.device)
    z = torch.add(start, s, alpha=reduction.scale)
    if reduction.floor is not None:
        z.mul_((s - reduction.floor).clamp_(min=0.0))
    z.masked_fill_(left_out, -torch.inf)
    # Where nothing is left, all shares are 0: -inf less the least number that there is.
    top = z.amax(1, keepdim=True) if z.shape[1] else z.new_zeros(len(z), 1)
    top.clamp_(min=torch.finfo(z.dtype).min)
    total = z.sub_(top).exp_().sum(1, keepdim=True)
    return (total.log() + top).squeeze(1), z, total


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
    total = shares.sum(1, keepdim=True)
    start = constant(reduction.scale * (end - reduction.shift), s.dtype, s.device)
    return total.log().add_(start).squeeze(1), shares, total


def _slope(s: Tensor, reduction: LogSumExp) -> Tensor:
    """The slope of max(0, s - f) (s - b)."""
    assert reduction.floor is not None
    above = (s - reduction.floor).clamp_(min=0.0)
    return above if reduction.frozen else above.add_((s - reduction.shift).mul_(above > 0))


def _differentiable(ctx: Any, s: Tensor, gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Return the slopes so that they have a gradient of their own, by plain autograd."""
    thresholds = [each.threshold for each in ctx.asked if isinstance(each.threshold, Tensor)]
    wanted = [x for x in (s, *thresholds) if x.requires_grad]
    outputs = [(each.plain(s), g) for each, g in zip(ctx.asked, gradients, strict=True) if g is not None]
    values, slopes = zip(*outputs, strict=True)
    found = iter(torch.autograd.grad(values, wanted, slopes, create_graph=True, allow_unused=True))
    ds, *rest = [next(found) if x.requires_grad else None for x in (s, *thresholds)]
    return ds, None, *rest
