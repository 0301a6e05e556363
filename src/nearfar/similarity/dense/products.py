"""All similarities of a small batch at once, and the gradient of its vectors in closed form."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.compiler import is_compiling

from nearfar.similarity.measure import between, few
from nearfar.similarity.stable import at_once, lengths, normalize

LEAST, MOST = 1e-12, 1e12
"""Lengths between which all that is computed of a row in float32 is an ordinary number."""


class Products:
    """The products of rows with columns, as numbers without gradient: computed when they are first asked for.

        u_i = x_i / |x_i|,  S = u vᵀ,  du = G v,  dv = Gᵀ u,  dx_i = (du_i - u_i <u_i, du_i>) / |x_i|

    with G = dL/dS, and du = (G + Gᵀ) u where the columns are the rows.

    Attributes:
        unit: whether rows are scaled to unit length first.
    """

    __slots__ = ("_inverse", "_lengths", "_other", "_s", "_u", "_v", "unit")

    _s: Float[Tensor, "row column"] | None

    def __init__(
        self,
        unit: bool,
        length: Float[Tensor, "row 1"] | None = None,
        other: Float[Tensor, "column 1"] | None = None,
    ) -> None:
        """Prepare.

        Args:
            length, other: of rows and columns, each where it is known and no number is near its end.
        """
        self.unit, self._lengths, self._s = unit, (length, other), None

    @property
    def known(self) -> bool:
        """Whether they are computed."""
        return self._s is not None

    def of(self, x: Float[Tensor, "row dim"], y: Float[Tensor, "column dim"] | None) -> Tensor:
        """Return S; ``y`` is None where rows are compared with each other."""
        if self._s is not None:
            return self._s
        work = torch.float64 if few(x, x if y is None else y) else x.dtype
        u, self._inverse = _prepared(x.detach(), self.unit, work, self._lengths[0])
        v, self._other = u, self._inverse
        if y is not None:
            v, self._other = _prepared(y.detach(), self.unit, work, self._lengths[1])
        self._u, self._v = u, v
        self._s = s = torch.mm(u, v.t()).to(x.dtype)
        return s

    def vectors(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return rows and columns as they are compared, in the type given; None as for ``of``."""
        self.of(x, y)
        return self._u.to(x.dtype), None if y is None else self._v.to(x.dtype)

    def back(
        self, g: Tensor, x: Tensor, y: Tensor | None, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Take a gradient G of S back to the rows and to the columns."""
        u, v = self._u, self._v
        g = g.to(u.dtype)
        if y is None:
            return self.back_to_rows(torch.mm(g + g.t(), u), x), None
        dx = self.back_to_rows(torch.mm(g, v), x) if wanted[0] else None
        return dx, self.back_to_columns(torch.mm(g.t(), u), y) if wanted[1] else None

    def back_to_rows(self, du: Tensor, x: Tensor) -> Tensor:
        """Take a gradient of the rows as they are compared back to those that were given."""
        return _back(du, self._u, self._inverse, x)

    def back_to_columns(self, dv: Tensor, y: Tensor) -> Tensor:
        """The same of the columns."""
        return _back(dv, self._v, self._other, y)


def matrix(
    x: Float[Tensor, "row dim"], y: Float[Tensor, "column dim"] | None, numbers: Products
) -> Float[Tensor, "row column"]:
    """Return all similarities, differentiable.

    Args:
        x, y: float32 or float64; None compares rows with each other.
        numbers: of these very rows and columns.
    """
    if is_compiling():
        return by_autograd(x, y, numbers.unit)[0]
    return _Matrix.apply(x, y, numbers)  # pyrefly: ignore


def vectors(
    x: Float[Tensor, "row dim"], y: Float[Tensor, "column dim"] | None, numbers: Products
) -> tuple[Tensor, Tensor]:
    """Return rows and columns as they are compared, differentiable; see ``matrix``."""
    if not numbers.unit:
        return x, x if y is None else y
    if is_compiling():
        return by_autograd(x, y, numbers.unit)[1:]
    u, v = _Vectors.apply(x, y, numbers)  # pyrefly: ignore
    return u, u if v is None else v


def differentiated(
    x: Tensor, y: Tensor | None, unit: bool, gradients: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of rows and columns by plain autograd, so that they have one of their own.

    Args:
        gradients: of S, and of rows and columns as they are compared.
    """
    known = [(out, g) for out, g in zip(by_autograd(x, y, unit), gradients, strict=True) if g is not None]
    inputs = [z for z in (x, y) if z is not None and z.requires_grad]
    outputs, slopes = zip(*known, strict=True)
    found = iter(torch.autograd.grad(outputs, inputs, slopes, create_graph=True))
    return tuple(next(found) if z is not None and z.requires_grad else None for z in (x, y))


class _Matrix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None, numbers: Products) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.numbers = numbers
        return numbers.of(x, y).detach()  # the number itself is not to become part of a graph

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (x, y), (g,) = ctx.saved_tensors, grad_outputs
        if torch.is_grad_enabled():  # for a gradient of the gradient
            return *differentiated(x, y, ctx.numbers.unit, (g, None, None)), None
        return *ctx.numbers.back(g, x, y, ctx.needs_input_grad), None


class _Vectors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None, numbers: Products) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(x, y)
        ctx.numbers = numbers
        ctx.set_materialize_grads(False)
        u, v = numbers.vectors(x, y)
        return u.detach(), None if v is None else v.detach()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (x, y), (gu, gv), numbers = ctx.saved_tensors, grad_outputs, ctx.numbers
        if torch.is_grad_enabled():
            return *differentiated(x, y, numbers.unit, (None, gu, gv)), None
        dx = None if gu is None or not ctx.needs_input_grad[0] else numbers.back_to_rows(gu, x)
        dy = None if gv is None or not ctx.needs_input_grad[1] else numbers.back_to_columns(gv, y)
        return dx, dy, None


def ordinary_lengths(x: Float[Tensor, "row dim"]) -> Float[Tensor, "row 1"] | None:
    """Return the lengths of rows where all that is computed of them is an ordinary number, else None.

    A device that would have to be waited for is not asked.
    """
    if not at_once(x) or not x.numel():
        return None
    length = torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True)
    each = length.numpy().ravel()
    ordinary = np.minimum.reduce(each) > LEAST and np.maximum.reduce(each) < MOST
    return length if ordinary else None


def row_lengths(x: Float[Tensor, "row dim"]) -> Float[Tensor, "row 1"]:
    """Return the length of each row, in float64, without gradient; NaN or infinite where a number is."""
    if x.dtype == torch.float32:  # whose squares neither overflow nor vanish in float64
        return torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True, dtype=torch.float64)
    return lengths(x.detach())[:, None]


def _prepared(
    x: Tensor, unit: bool, work: torch.dtype, length: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return rows as they are compared, and what they were multiplied with: 0 for a zero row."""
    if not unit:
        return x.to(work), None
    if length is None:
        length = ordinary_lengths(x)
    # Rounded to the type given first: few similarities and many are of the same vectors.
    if length is not None:
        inverse = length.reciprocal()
        return (x * inverse).to(work), inverse
    # Each row by itself, so that it is the same whatever other rows there are.
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    ordinary, inverse = (length > LEAST) & (length < MOST), length.reciprocal()
    other = row_lengths(x).reciprocal_().nan_to_num_(torch.nan, 0.0, 0.0)
    unit_rows = torch.where(ordinary, x * inverse, (x * other).to(x.dtype))
    return unit_rows.to(work), torch.where(ordinary, inverse.to(other.dtype), other)


def _back(pull: Tensor, unit: Tensor, inverse: Tensor | None, like: Tensor) -> Tensor:
    """Take a gradient of the vectors compared back to those that were given."""
    if inverse is None:
        return pull.to(like.dtype)
    along = (pull * unit).sum(1, keepdim=True)
    return torch.addcmul(pull, unit, along, value=-1.0).mul_(inverse).to(like.dtype)


def by_autograd(x: Tensor, y: Tensor | None, unit: bool) -> tuple[Tensor, Tensor, Tensor]:
    """S, rows and columns as they are compared, by plain autograd."""
    u = normalize(x) if unit else x
    v = u if y is None else normalize(y) if unit else y
    return between(u, v, "dot"), u, v
