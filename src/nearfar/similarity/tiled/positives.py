"""Similarities of positive pairs that lie together: small products along the diagonal, no rows gathered."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.similarity.stable import read
from nearfar.similarity.stored import Stored, columns
from nearfar.similarity.threads import in_turn, plainly

ROWS = 256
"""Rows of a panel."""
SMALL = 64
"""Largest class for which each class is a product of its own."""


@dataclass(frozen=True)
class Panel:
    """A block of rows with the columns that their positives lie in.

    Attributes:
        pairs: which pairs of the sorted list lie here.
        flat: their places in the panel, counted row by row.
    """

    rows: slice
    columns: slice
    pairs: slice
    flat: Int[Tensor, " pair"]


def panel_similarity(
    x: Float[Tensor, "row dim"],
    y: Float[Tensor, "column dim"],
    row: Int[Tensor, " pair"],
    column: Int[Tensor, " pair"],
    block: Int[Tensor, " pair"] | None = None,
    stored: Stored | None = None,
) -> Float[Tensor, " pair"]:
    """<x_row, y_column> of listed pairs without repeats, differentiable; ``y`` may be ``x`` itself.

    Args:
        block: which block of columns each pair lies in, where those of a row lie far apart.
        stored: what follows the rows of ``y``, without gradient.
    """
    group = row // ROWS
    if block is not None:
        group = group * (int(read(block.max())) + 1 if len(block) else 1) + block
    order = torch.argsort(group, stable=True)
    panels = _panels(row[order], column[order], group[order], len(x))
    values = _Panels.apply(x, None if y is x else y, panels, stored)
    return torch.empty_like(values).index_copy(0, order, values)


class _Panels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None, panels: list[Panel], stored: Stored | None) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.panels, ctx.stored = panels, stored
        left, right = x.detach(), columns((x if y is None else y).detach(), stored)
        values = x.new_zeros(panels[-1].pairs.stop if panels else 0)

        def work(index: int) -> None:
            panel = panels[index]
            s = left[panel.rows] @ right[panel.columns].mT
            values[panel.pairs] = s.view(-1)[panel.flat]

        in_turn(work, [(index,) for index in range(len(panels))])
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    @plainly()
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (gradient,), (x, y) = grad_outputs, ctx.saved_tensors
        panels: list[Panel] = ctx.panels
        dx = torch.zeros_like(x)
        dy = dx if y is None else torch.zeros_like(y)
        right = columns(x if y is None else y, ctx.stored)

        def work(index: int) -> None:
            panel = panels[index]
            rows, there = panel.rows, panel.columns
            weights = x.new_zeros(rows.stop - rows.start, there.stop - there.start)
            weights.view(-1)[panel.flat] = gradient[panel.pairs]
            dx[rows].addmm_(weights, right[there])
            if there.stop <= len(dy):  # what is stored has no gradient
                dy[there].addmm_(weights.mT, x[rows])

        in_turn(work, _keys(panels, shared=y is None))
        return dx, None if y is None else dy, None, None


def _panels(row: Tensor, column: Tensor, group: Tensor, rows: int) -> list[Panel]:
    """Return one panel for each group of pairs; these are listed group by group, each within ROWS rows."""
    device = row.device
    at, there, of = torch.stack([row, column, group]).cpu().numpy()
    ends = [*(np.flatnonzero(np.diff(of)) + 1).tolist(), len(of)] if len(of) else []
    panels = []
    for first, last in zip([0, *ends], ends, strict=False):
        pairs = slice(first, last)
        start = int(at[first]) // ROWS * ROWS
        low, high = int(there[pairs].min()), int(there[pairs].max()) + 1
        flat = torch.from_numpy((at[pairs] - start) * (high - low) + (there[pairs] - low)).to(device)
        panels.append(Panel(slice(start, min(start + ROWS, rows)), slice(low, high), pairs, flat))
    return panels


def _keys(panels: list[Panel], shared: bool) -> list[tuple[int, ...]]:
    """Which stretches of rows each panel changes; with ``shared`` rows and columns are the same vectors."""
    keys = []
    for panel in panels:
        columns = range(panel.columns.start // ROWS, (panel.columns.stop - 1) // ROWS + 1)
        if shared:
            keys.append(tuple({panel.rows.start // ROWS, *columns}))
        else:
            keys.append((panel.rows.start // ROWS, *(-1 - k for k in columns)))
    return keys


def equal_classes_similarity(
    x: Float[Tensor, "row dim"], size: int, row: Int[Tensor, " pair"], column: Int[Tensor, " pair"]
) -> tuple[Float[Tensor, "row dim"], Float[Tensor, " pair"]]:
    """The same where every class has ``size`` rows, one class after the other: one small product for each.

    Returns:
        The vectors again, for everything else that reads them, and the similarities. Both come out of one
        operation, so that the gradient of the second is added to that of the first in place.
    """
    return _EqualClasses.apply(x, size, row * size + column % size)  # pyrefly: ignore


class _EqualClasses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, flat: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, flat)
        ctx.size = size
        ctx.set_materialize_grads(False)
        classes = x.detach().view(len(x) // size, size, x.shape[1])
        s = x.new_empty(len(classes), size, size)

        def work(index: int) -> None:
            part = slice(index * ROWS, (index + 1) * ROWS)
            torch.bmm(classes[part], classes[part].mT, out=s[part])

        in_turn(work, [(index,) for index in range(-(-len(classes) // ROWS))])
        return x.view_as(x), s.view(-1)[flat]

    @staticmethod
    @torch.autograd.function.once_differentiable
    @plainly()
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (dx, gradient), (x, flat), size = grad_outputs, ctx.saved_tensors, ctx.size
        if gradient is None:
            return dx, None, None
        dx = torch.zeros_like(x) if dx is None else dx if dx.is_contiguous() else dx.contiguous()
        count, dim = len(x) // size, x.shape[1]
        weights = x.new_zeros(len(x) * size).index_put_((flat,), gradient).view(count, size, size)
        rows, slopes = x.view(count, size, dim), dx.view(count, size, dim)

        def work(index: int) -> None:
            part = slice(index * ROWS, (index + 1) * ROWS)
            slopes[part].baddbmm_(weights[part] + weights[part].mT, rows[part])

        in_turn(work, [(index,) for index in range(-(-count // ROWS))])
        return dx, None, None
