"""Similarities of positive pairs that lie together: small products along the diagonal, no rows gathered."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.similarity.products import Inner
from nearfar.similarity.threads import in_turn

ROWS = 256


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
) -> Float[Tensor, " pair"]:
    """<x_row, y_column> of listed pairs without repeats, differentiable; ``y`` may be ``x`` itself."""
    order = torch.argsort(row, stable=True)
    panels = _panels(row[order], column[order], len(x))
    values = _Panels.apply(x, None if y is x else y, panels)
    return torch.empty_like(values).index_copy(0, order, values)


class _Panels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None, panels: list[Panel]) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.panels = panels
        s = Inner(x.detach(), x.detach() if y is None else y.detach())
        values = x.new_zeros(panels[-1].pairs.stop if panels else 0)

        def work(index: int) -> None:
            panel = panels[index]
            values[panel.pairs] = s.tile(panel.rows, panel.columns).view(-1)[panel.flat]

        in_turn(work, [(index,) for index in range(len(panels))])
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (gradient,), (x, y) = grad_outputs, ctx.saved_tensors
        panels: list[Panel] = ctx.panels
        s = Inner(x, x if y is None else y)
        dx = torch.zeros_like(x)
        dy = dx if y is None else torch.zeros_like(y)

        def work(index: int) -> None:
            panel = panels[index]
            rows, columns = panel.rows, panel.columns
            weights = x.new_zeros(rows.stop - rows.start, columns.stop - columns.start)
            weights.view(-1)[panel.flat] = gradient[panel.pairs]
            s.push(weights, weights, rows, columns, dx[rows], dy[columns])

        in_turn(work, _keys(panels, shared=y is None))
        return dx, None if y is None else dy, None


def _panels(row: Tensor, column: Tensor, rows: int) -> list[Panel]:
    starts = torch.arange(0, rows, ROWS, device=row.device)
    first = [*torch.searchsorted(row, starts).tolist(), len(row)]
    panels = []
    for k, start in enumerate(range(0, rows, ROWS)):
        pairs = slice(first[k], first[k + 1])
        if pairs.start == pairs.stop:
            continue
        there = column[pairs]
        low, high = int(there.min()), int(there.max()) + 1
        flat = (row[pairs] - start) * (high - low) + (there - low)
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
            keys.append((0,))
    return keys
