"""The reductions over a matrix of similarities in memory, each with its slope dL/dS in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(eq=False)
class Asked:
    """A reduction of each row, over the columns that are not left out.

    Attributes:
        negated: of -s in place of s.
        bounded: whether s is a cosine, so that no power needs another shift than another.
    """

    reduction: Reduction
    left_out: Bool[Tensor, "row column"]
    negated: bool = False
    bounded: bool = False

    @property
    def threshold(self) -> Threshold:
        """What similarities are compared with, in a column where each row has its own."""
        threshold = threshold_of(self.reduction)
        return threshold[:, None] if isinstance(threshold, Tensor) and threshold.ndim else threshold

    @property
    def is_closed(self) -> bool:
        """Whether its slope is known; else it is plain autograd's, or it has none."""
        reduction = self.reduction
        return isinstance(reduction, (LogSumExp, *CURVES)) and not isinstance(reduction, Count)

    @property
    def is_narrow(self) -> bool:
        """Whether one shift serves the powers of all rows: none leaves the ordinary numbers."""
        r = self.reduction
        plain = isinstance(r, LogSumExp) and r.floor is None and not self.negated
        return self.bounded and plain and abs(r.scale) <= STEEPEST  # pyrefly: ignore[missing-attribute]

    def plain(self, s: Float[Tensor, "row column"]) -> Tensor:
        """Reduce by plain autograd."""
        return reduce(-s if self.negated else s, ~self.left_out, self.reduction, threshold_of(self.reduction))


def reduced(s: Float[Tensor, "row column"], asked: Sequence[Asked]) -> list[Tensor]:
    """Return each reduction of the rows of ``s``, all in one operation; the same as ``reduce``."""
    if torch.compiler.is_compiling():
        return [each.plain(s) for each in asked]
    closed = [each for each in asked if each.is_closed]
    thresholds = [t for each in closed if isinstance(t := threshold_of(each.reduction), Tensor)]
    found = iter(_Reduced.apply(s, closed, *thresholds) if closed else ())  # pyrefly: ignore
    return [next(found) if each.is_closed else each.plain(s) for each in asked]


class _Reduced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, asked: list[Asked], *_: Tensor) -> tuple[Tensor, ...]:
        """Reduce; thresholds are named once more, since they may have a gradient."""
        minus = -s if any(each.negated for each in asked) else None
        values, kept, powers = [], [], {}
        for each in asked:
            of = s if minus is None or not each.negated else minus
            if isinstance(each.reduction, LogSumExp):
                if each.is_narrow:
                    value, shares, total = _narrow(of, each, powers)
                else:
                    value, shares, total = _logsumexp(of, each.left_out, each.reduction)
                kept += [shares, total]
            else:
                value = curve_of(each.reduction).value(of, each.threshold, torch.empty_like(of))  # pyrefly: ignore
                fresh = not isinstance(each.reduction, Sum)
                value = (value.masked_fill_ if fresh else value.masked_fill)(each.left_out, 0.0).sum(1)
            values.append(value)
        ctx.save_for_backward(s, minus, *kept)
        ctx.asked = asked
        ctx.set_materialize_grads(False)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        s, minus, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(ctx, s, grad_outputs)
        of_softmax = iter(kept)
        ds: Tensor | None = None
        slopes = []
        for each, g in zip(ctx.asked, grad_outputs, strict=True):
            reduction, of = each.reduction, minus if each.negated else s
            softmax = (next(of_softmax), next(of_softmax)) if isinstance(reduction, LogSumExp) else None
            threshold = threshold_of(reduction)
            if g is None:
                slopes += [None] * isinstance(threshold, Tensor)
                continue
            g = g[:, None]  # noqa: PLW2901, a column
            if softmax is not None:
                shares, total = softmax
                least = TINIEST if each.is_narrow else 1.0
                weight = (g * constant(reduction.scale, g.dtype, g.device)).div_(
                    total.view(-1, 1).clamp(min=least)
                )
                slope = shares * weight
                if reduction.floor is not None:
                    slope.mul_(_slope(of, reduction))
            elif isinstance(reduction, Sum):
                slope = g.masked_fill(each.left_out, 0.0)
            else:
                slope = curve_of(reduction).slope(of, each.threshold, torch.empty_like(of))
                slope.masked_fill_(each.left_out, 0.0).mul_(g)
            if isinstance(threshold, Tensor):
                slopes.append(slope.sum(1).neg_().sum_to_size(threshold.shape))
            if each.negated:
                slope.neg_()
            ds = slope if ds is None else ds.add_(slope)
        return ds, None, *slopes


@cache
def constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a number as a tensor, made once: a plain number would be converted every time."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.tensor(value, dtype=dtype, device=device)


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
    total = shares.sum(1)
    start = constant(reduction.scale * (end - reduction.shift), s.dtype, s.device)
    return total.log().add_(start), shares, total


def _slope(s: Tensor, reduction: LogSumExp) -> Tensor:
    """The slope of max(0, s - f) (s - b)."""
    assert reduction.floor is not None
    above = (s - reduction.floor).clamp_(min=0.0)
    return above if reduction.frozen else above.add_((s - reduction.shift).mul_(above > 0))


def _differentiable(ctx: Any, s: Tensor, gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Return the slopes so that they have a gradient of their own, by plain autograd."""
    thresholds = [t for each in ctx.asked if isinstance(t := threshold_of(each.reduction), Tensor)]
    wanted = [x for x in (s, *thresholds) if x.requires_grad]
    outputs = [(each.plain(s), g) for each, g in zip(ctx.asked, gradients, strict=True) if g is not None]
    values, slopes = zip(*outputs, strict=True)
    found = iter(torch.autograd.grad(values, wanted, slopes, create_graph=True, allow_unused=True))
    ds, *rest = [next(found) if x.requires_grad else None for x in (s, *thresholds)]
    return ds, None, *rest
