"""Eltwise, Reduction, Power, Softmax, EuclideanLoss: arithmetic on blobs."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nearfar.caffe.layers.bottoms import axis_of, check_word
from nearfar.errors import NearfarError


class Eltwise(nn.Module):
    """Σ_k c_k x_k, Π_k x_k or the largest of several blobs, place by place.

    Args:
        operation: "SUM", "PROD" or "MAX". Of equals, MAX passes its gradient to one.
        coeff: c_k, one for each bottom; empty is 1 for all. For SUM only.

    Raises:
        NearfarError: if the operation is unknown, or coefficients do not go with it.
    """

    def __init__(self, operation: str = "SUM", coeff: Sequence[float] = ()) -> None:
        super().__init__()
        check_word("Eltwise", "operation", operation, ("PROD", "SUM", "MAX"))
        if coeff and operation != "SUM":
            raise NearfarError(f"Eltwise takes coefficients for SUM only; got {len(coeff)} for {operation}.")
        self.operation, self.coeff = operation, tuple(coeff)

    def forward(self, *bottoms: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if len(bottoms) < 2:
            raise NearfarError(f"Eltwise needs two bottoms or more; got {len(bottoms)}.")
        if self.coeff and len(self.coeff) != len(bottoms):
            raise NearfarError(
                f"Eltwise has {len(self.coeff)} coefficients but {len(bottoms)} bottoms; give one for each."
            )
        _same_shape("Eltwise", bottoms)
        top = bottoms[0] if self.operation != "SUM" or not self.coeff else self.coeff[0] * bottoms[0]
        for k, bottom in enumerate(bottoms[1:], start=1):
            match self.operation:
                case "SUM":
                    top = top + (self.coeff[k] * bottom if self.coeff else bottom)
                case "PROD":
                    top = top * bottom
                case _ if k == 1:
                    top = torch.where(top > bottom, top, bottom)
                case _:
                    top = torch.where(bottom > top, bottom, top)
        return top

    def extra_repr(self) -> str:
        return f"operation={self.operation!r}, coeff={self.coeff}"


class Reduction(nn.Module):
    """Reduce all axes from ``axis`` on to one number, times ``coeff``.

    Args:
        operation: "SUM", "ASUM" (of absolute values), "SUMSQ" (of squares) or "MEAN".
        axis: the first that is reduced; negative counts from the back. 0 leaves one number.
        coeff: factor of the result.

    Raises:
        NearfarError: if the operation is unknown.
    """

    def __init__(self, operation: str = "SUM", axis: int = 0, coeff: float = 1.0) -> None:
        super().__init__()
        check_word("Reduction", "operation", operation, ("SUM", "ASUM", "SUMSQ", "MEAN"))
        self.operation, self.axis, self.coeff = operation, axis, coeff

    def forward(self, bottom: Float[Tensor, "*shape"]) -> Float[Tensor, "*head"]:
        x = bottom.flatten(axis_of(self.axis, bottom))
        match self.operation:
            case "ASUM":
                top = x.abs().sum(-1)
            case "SUMSQ":
                top = x.square().sum(-1)
            case "MEAN":
                top = x.mean(-1)
            case _:
                top = x.sum(-1)
        return self.coeff * top

    def extra_repr(self) -> str:
        return f"operation={self.operation!r}, axis={self.axis}, coeff={self.coeff}"


class Power(nn.Module):
    """(shift + scale x)^power, place by place.

    Args:
        parity: the layer's gradient, power · scale · y / (shift + scale x), which is NaN where that is 0 / 0.
            By default a power below 1 has gradient 0 there, so that the root of a squared distance has the
            subgradient 0 at distance 0.
    """

    def __init__(
        self, power: float = 1.0, scale: float = 1.0, shift: float = 0.0, parity: bool = False
    ) -> None:
        super().__init__()
        self.power, self.scale, self.shift, self.parity = power, scale, shift, parity

    def forward(self, bottom: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        base = self.shift + self.scale * bottom
        if self.power == 1:
            return base
        if self.parity and self.power not in (0, 2) and self.scale != 0:
            return _PowerOfTheLayer.apply(base, self.power)  # pyrefly: ignore
        if self.power >= 1 or self.power == 0:
            return base.pow(self.power)
        zero = base == 0
        return (
            base.masked_fill(zero, 1.0)
            .pow(self.power)
            .masked_fill(zero, 0.0 if self.power > 0 else torch.inf)
        )

    def extra_repr(self) -> str:
        return f"power={self.power}, scale={self.scale}, shift={self.shift}, parity={self.parity}"


class Softmax(nn.Module):
    """Softmax along an axis."""

    def __init__(self, axis: int = 1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, bottom: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return bottom.softmax(axis_of(self.axis, bottom))

    def extra_repr(self) -> str:
        return f"axis={self.axis}"


class EuclideanLoss(nn.Module):
    """1 / (2N) Σ |x - y|² over N samples."""

    def forward(
        self, prediction: Float[Tensor, "n *dim"], target: Float[Tensor, "n *dim"]
    ) -> Float[Tensor, ""]:
        n = len(prediction) if prediction.ndim else 1
        if prediction.numel() != target.numel() or not target.ndim or len(target) != n:
            raise NearfarError(
                f"EuclideanLoss compares blobs of one size; got {list(prediction.shape)} and "
                f"{list(target.shape)}."
            )
        return (prediction - target.view_as(prediction)).square().sum() / (2 * max(1, n))


def _same_shape(layer: str, bottoms: Sequence[Tensor]) -> None:
    for bottom in bottoms[1:]:
        if bottom.shape != bottoms[0].shape:
            raise NearfarError(
                f"{layer} needs bottoms of one shape; got {list(bottoms[0].shape)} and {list(bottom.shape)}."
            )


class _PowerOfTheLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, power: float) -> Tensor:
        top = base.pow(power)
        ctx.power = power
        ctx.save_for_backward(base, top)
        return top

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        base, top = ctx.saved_tensors
        return grad_outputs[0] * (ctx.power * (top / base)), None
