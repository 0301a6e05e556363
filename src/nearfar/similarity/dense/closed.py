"""The reductions over a matrix of similarities in memory, each with its slope dL/dS in closed form."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nearfar.similarity.curves import CurveSum, curve_of
from nearfar.similarity.dense.reduce import reduce
from nearfar.similarity.reductions import (
    HingeSum,
    LogSumExp,
    Reduction,
    SigmoidSquareSum,
    SigmoidSum,
    SoftplusSum,
    SquaredHingeSum,
    Sum,
    Threshold,
)


def reduced(
    s: Float[Tensor, "row column"],
    left_out: Bool[Tensor, "row column"],
    reduction: Reduction,
    threshold: Threshold,
) -> Tensor:
    """Apply a reduction to each row over the columns that are not left out; the same as ``reduce``."""
    match reduction:
        case LogSumExp(floor=None):
            closed: type[torch.autograd.Function] = _LogSumExp
        case Sum() | HingeSum() | SquaredHingeSum() | SoftplusSum() | SigmoidSum() | SigmoidSquareSum():
            closed = _CurveSum
        case _:
            return reduce(s, ~left_out, reduction, threshold)
    if torch.compiler.is_compiling():
        return reduce(s, ~left_out, reduction, threshold)
    return closed.apply(s, threshold, left_out, reduction)  # pyrefly: ignore


class _LogSumExp(torch.autograd.Function):
    """log Σ e^(a (s - b)), with the slopes a p, p = softmax(a (s - b))."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, threshold: Threshold, left_out: Tensor, reduction: LogSumExp) -> Tensor:
        z = (s - reduction.shift).mul_(reduction.scale) if reduction.shift else s * reduction.scale
        z.masked_fill_(left_out, -torch.inf)
        # The shares come to 1, and where nothing is left they are 0: -inf less the least number there is.
        top = (
            z.amax(1, keepdim=True).clamp_(min=torch.finfo(z.dtype).min)
            if z.shape[1]
            else z.new_zeros(len(z), 1)
        )
        total = z.sub_(top).exp_().sum(1, keepdim=True)
        ctx.save_for_backward(s, left_out, z, total)
        ctx.reduction, ctx.threshold = reduction, threshold
        return (total.log() + top).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (s, left_out, shares, total), (g,) = ctx.saved_tensors, grad_outputs
        if torch.is_grad_enabled():
            return _differentiable(ctx, s, ctx.threshold, left_out, g)
        weight = g[:, None].mul(ctx.reduction.scale).div_(total.clamp(min=1.0))
        return shares * weight, None, None, None


class _CurveSum(torch.autograd.Function):
    """Σ f(s - t), with the slopes f'(s - t); of t, less their sum."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, threshold: Threshold, left_out: Tensor, reduction: CurveSum) -> Tensor:
        tensor = isinstance(threshold, Tensor)
        ctx.save_for_backward(s, left_out, threshold if tensor else None)
        ctx.reduction, ctx.threshold = reduction, None if tensor else threshold
        value = curve_of(reduction).value(s, _column(threshold), torch.empty_like(s))
        return value.masked_fill(left_out, 0.0).sum(1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (s, left_out, tensor), (g,) = ctx.saved_tensors, grad_outputs
        threshold = ctx.threshold if tensor is None else tensor
        if torch.is_grad_enabled():
            return _differentiable(ctx, s, threshold, left_out, g)
        ds = curve_of(ctx.reduction).slope(s, _column(threshold), torch.empty_like(s))
        ds = ds.masked_fill_(left_out, 0.0).mul_(g[:, None])
        dt = ds.sum(1).neg_().sum_to_size(threshold.shape) if ctx.needs_input_grad[1] else None
        return ds, dt, None, None


def _column(threshold: Threshold) -> Threshold:
    return threshold[:, None] if isinstance(threshold, Tensor) and threshold.ndim else threshold


def _differentiable(
    ctx: Any, s: Tensor, threshold: Threshold, left_out: Tensor, g: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the slopes so that they have a gradient of their own, by plain autograd."""
    given = zip((s, threshold), ctx.needs_input_grad, strict=False)
    inputs = [x for x, needed in given if needed and isinstance(x, Tensor)]
    value = reduce(s, ~left_out, ctx.reduction, threshold)
    found = iter(torch.autograd.grad(value, inputs, g, create_graph=True))
    return *(next(found) if needed else None for needed in ctx.needs_input_grad[:2]), None, None
