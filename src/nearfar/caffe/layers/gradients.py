"""Backward passes of Caffe layers that are no derivatives, for ``parity=True``."""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def scaled(x: Float[Tensor, "*shape"], factor: float) -> Float[Tensor, "*shape"]:
    """Return x; its gradient is multiplied by ``factor``."""
    return _Scaled.apply(x, factor)  # pyrefly: ignore


def unweighted(value: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the value; whatever weight a loss gives it, its gradient is taken as 1."""
    return _Unweighted.apply(value)  # pyrefly: ignore


def replaced(value: Shaped[Tensor, "*shape"], shown: Tensor) -> Shaped[Tensor, "*shape"]:
    """Return ``shown`` with the gradient of ``value``."""
    return _Replaced.apply(value, shown)  # pyrefly: ignore


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        return ctx.factor * grad_outputs[0], None


class _Unweighted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004, torch's signature
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # noqa: ARG004  # pyrefly: ignore
        return torch.ones_like(grad_outputs[0])


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shown: Tensor) -> Tensor:  # noqa: ARG004, torch's signature
        return shown.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # noqa: ARG004  # pyrefly: ignore
        return grad_outputs[0], None
