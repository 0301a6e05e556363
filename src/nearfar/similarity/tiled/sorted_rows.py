"""Rows in sorted order, of unit length where the measure asks for it."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.similarity.stable import full_precision, unit_factors
from nearfar.similarity.threads import in_turn, plainly

CHUNK = 256
"""Rows that a thread takes at a time."""
MOVED = 2**18
"""About how many numbers are put back in order at a time."""


class _SortedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor | None, unit: bool) -> Tensor:
        rows = torch.empty_like(x, dtype=full_precision(x[:0]).dtype)
        inverse = rows.new_empty(len(x), 1) if unit else None

        def work(index: int) -> None:
            part = slice(index * CHUNK, (index + 1) * CHUNK)
            some = full_precision(x[part] if order is None else x.index_select(0, order[part]))
            if inverse is not None:
                scale, factor = unit_factors(some)
                torch.mul(some if scale is None else some * scale, factor, out=rows[part])
                inverse[part] = factor if scale is None else factor * scale
            else:
                rows[part] = some

        _by_chunks(work, len(x))
        ctx.save_for_backward(order, inverse, rows if unit else None)
        ctx.dtype = x.dtype
        return rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    @plainly()
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (order, inverse, rows), gradient = ctx.saved_tensors, grad_outputs[0].contiguous()

        # In place: every operation on sorted rows hands back a gradient of its own, and of this size there
        # should be one. (Autograd adds up the gradients of several operations before it comes here.)
        def work(index: int) -> None:
            part = slice(index * CHUNK, (index + 1) * CHUNK)
            g, y = gradient[part], rows[part]
            along = (y * g).sum(1, keepdim=True)
            g.addcmul_(y, along, value=-1.0).mul_(inverse[part])

        few = max(8, MOVED // max(1, len(gradient)))

        def put_back(index: int) -> None:
            columns = gradient[:, index * few : (index + 1) * few]
            columns[order] = columns.clone()

        if inverse is not None:
            _by_chunks(work, len(gradient))
        if order is not None:
            in_turn(put_back, [(index,) for index in range(-(-gradient.shape[1] // few))])
        return gradient.to(ctx.dtype), None, None


def _by_chunks(work: Callable[[int], None], rows: int) -> None:
    in_turn(work, [(index,) for index in range(-(-rows // CHUNK))])


def sorted_rows(
    x: Float[Tensor, "n dim"], order: Int[Tensor, " n"] | None, unit: bool
) -> Float[Tensor, "n dim"]:
    """Return ``x[order]``, at least float32, scaled to unit length if ``unit`` (a zero row stays zero).

    Args:
        order: None for the order given; ``x`` itself comes back where nothing is to be done.
    """
    if order is None and not unit and full_precision(x[:0]).dtype == x.dtype:
        return x
    return _SortedRows.apply(x, order, unit)  # pyrefly: ignore
