"""L2Normalize in its two public versions, and Norm: vectors of length one."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nearfar.caffe.layers.bottoms import axis_of, check_word

TINY = 1e-12
"""Length up to which a vector counts as zero where its direction would be needed."""


class L2Normalize(nn.Module):
    """Scale each sample [N, ...] to length one, all its values together.

        A    y = x / sqrt(|x|² + 1e-7)
        B    y = x / |x|,  and 0 with gradient 0 where |x| <= 1e-12

    Args:
        variant: "A" or "B": two public layers have this name.
        parity: B gives NaN for a zero vector, as the original does. In A nothing is to be corrected.

    Raises:
        NearfarError: if there is no such variant.
    """

    def __init__(self, variant: Literal["A", "B"] = "A", parity: bool = False) -> None:
        super().__init__()
        check_word("L2Normalize", "variant", variant, ("A", "B"))
        self.variant, self.parity = variant, parity

    def forward(self, bottom: Float[Tensor, "n *dim"]) -> Float[Tensor, "n *dim"]:
        x = bottom.flatten(1) if bottom.ndim > 1 else bottom[:, None]
        if self.variant == "A":
            y = _OverSmoothLength.apply(x)  # pyrefly: ignore
        elif self.parity:
            y = _DividedByLength.apply(x)  # pyrefly: ignore
        else:
            y = _over_length(x, 1, 0.0)
        return y.view(bottom.shape)

    def extra_repr(self) -> str:
        return f"variant={self.variant!r}, parity={self.parity}"


class Norm(nn.Module):
    """Scale the channels (axis 1) of each sample, at each place, to length one: y = x / (|x| + 1e-6).

    Args:
        parity: the original's gradient, (|x|² g - x <x, g>) / (|x|³ + 1e-6), which is half of the derivative
            at |x| = 0.01 and less below. By default the derivative, and 0 where |x| <= 1e-12.
    """

    def __init__(self, parity: bool = False) -> None:
        super().__init__()
        self.parity = parity

    def forward(self, bottom: Float[Tensor, "n channel *place"]) -> Float[Tensor, "n channel *place"]:
        axis = axis_of(1, bottom)
        if self.parity:
            return _NormOfTheLayer.apply(bottom, axis)  # pyrefly: ignore
        return _over_length(bottom, axis, 1e-6)

    def extra_repr(self) -> str:
        return f"parity={self.parity}"


def _over_length(x: Tensor, axis: int, eps: float) -> Tensor:
    """x / (|x| + eps) along an axis; 0 with gradient 0 for a vector that is as good as zero."""
    zero = x.detach().norm(dim=axis, keepdim=True) <= TINY
    length = x.masked_fill(zero, 1.0).norm(dim=axis, keepdim=True)
    return (x / (length + eps)).masked_fill(zero, 0.0)


class _OverSmoothLength(torch.autograd.Function):
    """y = x / s with s = sqrt(|x|² + 1e-7), and its derivative (g - y <y, g>) / s.

    Autograd would subtract larger numbers: along x almost nothing of g is left.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = (x.square().sum(1, keepdim=True) + 1e-7).sqrt()
        y = x / length
        ctx.save_for_backward(y, length)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (g,), (y, length) = grad_outputs, ctx.saved_tensors
        return (g - y * (y * g).sum(1, keepdim=True)) / length


class _DividedByLength(torch.autograd.Function):
    """x / |x| as the layer computes it, 0 / 0 included."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = x.norm(dim=1, keepdim=True)
        ctx.save_for_backward(x, length)
        return x / length

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (g,), (x, length) = grad_outputs, ctx.saved_tensors
        return g / length - x * ((x * g).sum(1, keepdim=True) / length**3)


class _NormOfTheLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int) -> Tensor:
        length = x.norm(dim=axis, keepdim=True)
        ctx.save_for_backward(x, length)
        ctx.axis = axis
        return x / (length + 1e-6)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (g,), (x, length) = grad_outputs, ctx.saved_tensors
        along = (x * g).sum(ctx.axis, keepdim=True)
        return (length**2 * g - x * along) / (length**3 + 1e-6), None
