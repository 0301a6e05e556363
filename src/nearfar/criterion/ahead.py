"""A loss with its gradient computed in the forward pass: the backward pass only hands it out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nearfar.similarity.stable import at_once, full_precision, read


def with_gradient(value: Callable[[Sequence[Tensor]], Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """Return the scalar ``value(inputs)``; its gradient is computed now, and what it needed is freed.

    Nothing then happens between the backward passes of other layers but one multiplication, whatever the
    number of threads or ranks. There is no double backward.

    Args:
        value: of inputs as they are given here; parts of it that need gradient must be among them.
        inputs: tensors; those that require gradient get it.
    """
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs)):
        return value(inputs)
    # In full precision, so that a gradient of half precision is rounded only after it is scaled.
    leaves = [full_precision(x.detach()).requires_grad_(x.requires_grad) for x in inputs]
    result = value(leaves)
    if not result.requires_grad:
        return result
    learning = [x for x in leaves if x.requires_grad]
    gradients = iter(torch.autograd.grad(result, learning, allow_unused=True))
    every = [next(gradients) if x.requires_grad else None for x in leaves]
    return attach(result.detach(), every, inputs)


def attach(value: Tensor, gradients: Sequence[Tensor | None], inputs: Sequence[Tensor]) -> Tensor:
    """Return a scalar whose gradient is known: for each of ``inputs`` one of its shape, or None."""
    return _WithGradient.apply(value, list(gradients), *inputs)  # pyrefly: ignore


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor | None], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [x.dtype for x in inputs]
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (upstream,) = grad_outputs
        plain = at_once(upstream) and read(upstream) == 1  # the usual case: no second copy
        pairs = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return (
            None,
            None,
            *(g if g is None else (g if plain else g * upstream).to(dtype) for g, dtype in pairs),
        )
