"""Rows in sorted order, of unit length where the measure asks for it."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.similarity.stable import full_precision


class _SortedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, unit: bool) -> Tensor:
        rows = full_precision(x)[order]
        inverse = None
        if unit:
            length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            zero = length == 0
            inverse = length.masked_fill(zero, 1.0).reciprocal().masked_fill(zero, 0.0)
            rows.mul_(inverse)
        ctx.save_for_backward(order, inverse, rows if unit else None)
        ctx.dtype = x.dtype
        return rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (gradient,), (order, inverse, rows) = grad_outputs, ctx.saved_tensors
        dx = torch.empty_like(gradient, dtype=ctx.dtype)
        for start in range(0, len(order), 4096):
            part = slice(start, start + 4096)
            g = gradient[part]
            if inverse is not None:
                y = rows[part]
                g = (g - y * (y * g).sum(1, keepdim=True)) * inverse[part]
            dx[order[part]] = g.to(ctx.dtype)
        return dx, None, None


def sorted_rows(x: Float[Tensor, "n dim"], order: Int[Tensor, " n"], unit: bool) -> Float[Tensor, "n dim"]:
    """Return ``x[order]``, at least float32, scaled to unit length if ``unit`` (a zero row stays zero)."""
    return _SortedRows.apply(x, order, unit)  # pyrefly: ignore
