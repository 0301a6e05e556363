"""The functions of a similarity that are summed over pairs, with their slopes."""

from typing import Protocol

import torch
from torch import Tensor

from nearfar.similarity.reductions import (
    Count,
    HingeSum,
    SigmoidSquareSum,
    SigmoidSum,
    SoftplusSum,
    SquaredHingeSum,
    Sum,
)


class Curve(Protocol):
    """A function f of s - t, and its slope; both are written to ``out``, the value to a new tensor for None.

    Attributes:
        fill: a similarity for which f is 0.
        flat: whether f is 0 for all s <= t.
        added: whether losses usually just add the sums up: then the first pass gathers the gradient as well.
    """

    fill: float = -torch.inf
    flat: bool = False
    added: bool = True

    def value(self, s: Tensor, t: float | Tensor, out: Tensor | None) -> Tensor:
        """Return f(s - t)."""
        ...

    def slope(self, s: Tensor, t: float | Tensor, out: Tensor) -> Tensor:
        """Return f'(s - t)."""
        ...


class Identity(Curve):
    fill = 0.0

    def value(self, s: Tensor, t: float | Tensor, out: Tensor | None) -> Tensor:  # noqa: ARG002
        return s

    def slope(self, s: Tensor, t: float | Tensor, out: Tensor) -> Tensor:  # noqa: ARG002
        return out.fill_(1.0)


class Passed(Curve):
    """1 where s > t, else 0; no slope."""

    flat = True

    def value(self, s: Tensor, t: float | Tensor, out: Tensor | None) -> Tensor:
        return torch.gt(s, t, out=out)

    def slope(self, s: Tensor, t: float | Tensor, out: Tensor) -> Tensor:  # noqa: ARG002
        return out.zero_()


class Hinge(Curve):
    flat = True

    def value(self, s: Tensor, t: float | Tensor, out: Tensor | None) -> Tensor:
        return torch.sub(s, t, out=out).relu_()

    def slope(self, s: Tensor, t: float | Tensor, out: Tensor) -> Tensor:
        return torch.gt(s, t, out=out)


class SquaredHinge(Curve):
    flat = True

    def value(self, s: Tensor, t: float | Tensor, out: Tensor | None) -> Tensor:
        return torch.sub(s, t, out=out).relu_().square_()

    def slope(self, s: Tensor, t: float | Tensor, out: Tensor) -> Tensor:
        return torch.sub(s, t, out=out).relu_().mul_(2.0)


class Softplus(Curve):
    """log(1 + e^(a z)) / a. Above a z = 40 it is the line, to the last bit of float64."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def value(self, s: Tensor, t: float | Tensor, out: Tensor | None) -> Tensor:
        return torch.nn.functional.softplus(torch.sub(s, t, out=out), self.scale, 40.0)

    def slope(self, s: Tensor, t: float | Tensor, out: Tensor) -> Tensor:
        return torch.sub(s, t, out=out).mul_(self.scale).sigmoid_()


class Sigmoid(Curve):
    """σ(a min(z, c)), a soft step: its sums are ranks, which losses divide by."""

    added = False

    def __init__(self, scale: float, cap: float) -> None:
        self.scale, self.cap = scale, cap

    def value(self, s: Tensor, t: float | Tensor, out: Tensor | None) -> Tensor:
        z = torch.sub(s, t, out=out)
        return (z if self.cap == torch.inf else z.clamp_(max=self.cap)).mul_(self.scale).sigmoid_()

    def slope(self, s: Tensor, t: float | Tensor, out: Tensor) -> Tensor:
        p = torch.sub(s, t, out=out).mul_(self.scale).sigmoid_()
        if self.cap < torch.inf:
            # Beyond the cap the value is that at the cap, and its slope 0: that of σ = 1.
            p.masked_fill_(torch.sub(s, t) > self.cap, 1.0)
        return p.addcmul_(p, p, value=-1.0).mul_(self.scale)


class SigmoidSquare(Curve):
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def value(self, s: Tensor, t: float | Tensor, out: Tensor | None) -> Tensor:
        return torch.sub(s, t, out=out).mul_(self.scale).sigmoid_().square_()

    def slope(self, s: Tensor, t: float | Tensor, out: Tensor) -> Tensor:
        p = torch.sub(s, t, out=out).mul_(self.scale).sigmoid_()
        return p.square().mul_(1 - p).mul_(2 * self.scale)


CurveSum = Sum | Count | HingeSum | SquaredHingeSum | SoftplusSum | SigmoidSum | SigmoidSquareSum


FIXED: dict[type, Curve] = {
    Sum: Identity(),
    Count: Passed(),
    HingeSum: Hinge(),
    SquaredHingeSum: SquaredHinge(),
}
"""Those without a setting."""


def curve_of(reduction: CurveSum) -> Curve:
    if isinstance(reduction, SoftplusSum):
        return Softplus(reduction.scale)
    if isinstance(reduction, SigmoidSum):
        return Sigmoid(reduction.scale, reduction.cap)
    if isinstance(reduction, SigmoidSquareSum):
        return SigmoidSquare(reduction.scale)
    return FIXED[type(reduction)]
