"""All similarities of a small batch at once, and the gradient of its vectors in closed form."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.similarity.measure import between, few
from nearfar.similarity.stable import at_once, lengths, normalize

LEAST, MOST = 1e-12, 1e12
"""Lengths between which all that is computed of a row in float32 is an ordinary number."""

Compared = tuple[Tensor, Tensor, Tensor]
"""(S [row, column], rows and columns as they are compared)"""


def products(
    x: Float[Tensor, "row dim"],
    y: Float[Tensor, "column dim"] | None,
    *,
    unit: bool,
    length: Float[Tensor, "row 1"] | None = None,
) -> Compared:
    """Return the products of rows with rows, and the vectors that they are of.

        u_i = x_i / |x_i|,  S = u vᵀ,  du = G v,  dv = Gᵀ u,  dx_i = (du_i - u_i <u_i, du_i>) / |x_i|

    with G = dL/dS, and du = (G + Gᵀ) u where the columns are the rows.

    Args:
        x, y: float32 or float64; None compares rows with each other.
        unit: scale rows to unit length first.
        length: of the rows of ``x``, where they are known and no number is near its end.
    """
    if torch.compiler.is_compiling():
        return _plain(x, y, unit)
    s, u, v = _Products.apply(x, y, unit, length)  # pyrefly: ignore
    return s, u, u if v is None else v


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor | None, unit: bool, length: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        work = torch.float64 if few(x, x if y is None else y) else x.dtype
        u, inverse = _prepared(x, unit, work, length)
        v, other = (None, None) if y is None else _prepared(y, unit, work)
        ctx.save_for_backward(x, y, u, v, inverse, other)
        ctx.unit = unit
        ctx.set_materialize_grads(False)
        s = u @ (u if v is None else v).mT
        return s.to(x.dtype), _output(u, x), None if v is None or y is None else _output(v, y)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (x, y, u, v, inverse, other), (gs, gu, gv) = ctx.saved_tensors, grad_outputs
        if torch.is_grad_enabled():  # for a gradient of the gradient
            return *_differentiable(x, y, ctx.unit, grad_outputs), None, None
        g = None if gs is None else gs.to(u.dtype)
        if v is None:
            return _back(None if g is None else (g + g.mT) @ u, gu, u, inverse, x), None, None, None
        dx = dy = None
        if ctx.needs_input_grad[0]:
            dx = _back(None if g is None else g @ v, gu, u, inverse, x)
        if ctx.needs_input_grad[1]:
            dy = _back(None if g is None else g.mT @ u, gv, v, other, y)
        return dx, dy, None, None


def ordinary_lengths(x: Float[Tensor, "row dim"]) -> Float[Tensor, "row 1"] | None:
    """Return the lengths of rows where all that is computed of them is an ordinary number, else None.

    A device that would have to be waited for is not asked.
    """
    if not at_once(x) or not x.numel():
        return None
    length = torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True)
    each = length.numpy()
    ordinary = np.minimum.reduce(each, None) > LEAST and np.maximum.reduce(each, None) < MOST
    return length if ordinary else None


def row_lengths(x: Float[Tensor, "row dim"]) -> Float[Tensor, "row 1"]:
    """Return the length of each row, in float64, without gradient; NaN or infinite where a number is."""
    if x.dtype == torch.float32:  # whose squares neither overflow nor vanish in float64
        return torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True, dtype=torch.float64)
    return lengths(x.detach())[:, None]


def _prepared(
    x: Tensor, unit: bool, work: torch.dtype, length: Tensor | None = None
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
    length = torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True)
    ordinary, inverse = (length > LEAST) & (length < MOST), length.reciprocal()
    other = row_lengths(x).reciprocal_().nan_to_num_(torch.nan, 0.0, 0.0)
    unit_rows = torch.where(ordinary, x * inverse, (x * other).to(x.dtype))
    return unit_rows.to(work), torch.where(ordinary, inverse.to(other.dtype), other)


def _output(u: Tensor, x: Tensor) -> Tensor:
    """Return vectors in the type given, never the input itself."""
    return u.view_as(u) if u is x else u.to(x.dtype)


def _back(
    pull: Tensor | None, gradient: Tensor | None, unit: Tensor, inverse: Tensor | None, like: Tensor
) -> Tensor | None:
    """Take a gradient of the vectors compared back to those that were given."""
    if gradient is not None:
        pull = gradient.to(unit.dtype) if pull is None else pull + gradient
    if pull is None or inverse is None:
        return pull if pull is None else pull.to(like.dtype)
    along = (pull * unit).sum(1, keepdim=True)
    return torch.addcmul(pull, unit, along, value=-1.0).mul_(inverse).to(like.dtype)


def _plain(x: Tensor, y: Tensor | None, unit: bool) -> Compared:
    """The same with plain autograd."""
    u = normalize(x) if unit else x
    v = u if y is None else normalize(y) if unit else y
    return between(u, v, "dot"), u, v


def _differentiable(
    x: Tensor, y: Tensor | None, unit: bool, gradients: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    s, u, v = _plain(x, y, unit)
    known = [(out, g) for out, g in zip((s, u, v), gradients, strict=True) if g is not None]
    inputs = [z for z in (x, y) if z is not None and z.requires_grad]
    outputs, slopes = zip(*known, strict=True)
    found = iter(torch.autograd.grad(outputs, inputs, slopes, create_graph=True))
    return tuple(next(found) if z is not None and z.requires_grad else None for z in (x, y))
