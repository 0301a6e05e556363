"""Tiles of similarities between two sets of vectors, and gradients of the vectors from weights on a tile."""

from typing import Any

import torch
from torch import Tensor

from nearfar.similarity.measure import Measure, is_product, row_by_row
from nearfar.similarity.stable import read
from nearfar.similarity.stored import Columns, Stored, columns, longest
from nearfar.similarity.threads import in_turn, plainly
from nearfar.similarity.tiled.matmul import choose_product
from nearfar.similarity.tiled.tile import scratch

NEAR = 1e-6
"""Squared distances below this share of the squared norms are taken from the differences."""
GATHERED = 2**17
"""Numbers of rows that are gathered at a time: half of a core's cache. Measured."""


class Inner:
    """s = <x, y>."""

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    def __init__(self, x: Tensor, y: Tensor | Columns) -> None:
        self.x, self.y = x, y
        self.product = (
            choose_product(x.shape[1], x.device) if x.dtype == torch.float32 else lambda a, b, _: a @ b.mT
        )

    def bounds(self) -> tuple[float, float]:
        """Between what similarities must lie (Cauchy and Schwarz)."""
        largest = read(longest(self.x))
        limit = 1.0001 * largest * (largest if self.y is self.x else _longest(self.y))
        return -limit, limit

    def tile(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        """Similarities [row, column], contiguous, free to be changed."""
        return self.product(_some(self.x, rows), _some(self.y, columns), None)

    def push(
        self,
        weights: Tensor,
        s: Tensor,  # noqa: ARG002, what distances need
        rows: slice,
        columns: slice,
        dx: Tensor | None,
        dy: Tensor | None,
    ) -> None:
        """Add Σ_j w_ij ds_ij/dx_i to ``dx`` and Σ_i w_ij ds_ij/dy_j to ``dy``, both of the blocks alone."""
        if dx is not None:
            dx.add_(self.product(weights, self.y[columns].mT, None))
        if dy is not None:
            dy.add_(self.product(weights.mT, self.x[rows].mT, None))


class Distances:
    """s = -|x - y| or -|x - y|², with products in float64.

    |x|² + |y|² - 2 <x, y> loses all digits of a near pair in float32. In float64 it keeps enough of them,
    after the common mean is taken off; the few pairs nearer than NEAR are computed from their differences.
    """

    def __init__(self, x: Tensor, y: Tensor | Columns, squared: bool) -> None:
        given = y.given if isinstance(y, Columns) else y
        mean = given.double().mean(0) if len(given) else 0.0
        self.dtype, self.squared = x.dtype, squared
        self.x = x.double() - mean
        self.y = self.x if y is x else given.double() - mean
        self.xx, self.yy = self.x.square().sum(1), self.y.square().sum(1)
        if isinstance(y, Columns):
            # What is stored is brought to float64 a tile at a time.
            self.y = Columns(self.y, y.stored.changed(lambda some: some.double() - mean))

    def bounds(self) -> tuple[float, float]:
        if not (len(self.x) and len(self.y)):
            return 0.0, 0.0
        limit = 1.0001 * (read(self.xx.sqrt().max()) + _longest(self.y))
        return -(limit * limit if self.squared else limit), 0.0

    def tile(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        x, y = self.x[rows], self.y[columns]
        if not (len(x) and len(y)):
            return torch.empty(len(x), len(y), dtype=self.dtype, device=x.device)
        square = scratch.get("square", (len(x), len(y)), torch.float64, x.device)
        torch.mm(x, y.mT, out=square)
        yy = y.square().sum(1) if isinstance(self.y, Columns) else self.yy[columns]
        norms = self.xx[rows, None], yy[None]
        square.mul_(-2.0).add_(norms[0]).add_(norms[1])
        scale = float(norms[0].max() + norms[1].max())
        if float(square.min()) < NEAR * scale:
            self._exactly(square, x, y, NEAR * scale)
        if not self.squared:
            square.sqrt_()
        return square.neg_().to(self.dtype, copy=True)

    def push(
        self, weights: Tensor, s: Tensor, rows: slice, columns: slice, dx: Tensor | None, dy: Tensor | None
    ) -> None:
        # ds/dx = -(x - y) / D, or -2 (x - y) for the square; D = -s, and the subgradient at D = 0 is 0.
        w = weights.double()
        if self.squared:
            w = w.mul_(-2.0)
        else:
            distance = s.double()
            w = w.mul_(distance != 0).div_(distance.masked_fill_(distance == 0, 1.0))
        x, y = self.x[rows], self.y[columns]
        if dx is not None:
            dx.add_((w.sum(1)[:, None] * x).sub_(w @ y))
        if dy is not None:
            dy.add_((w.sum(0)[:, None] * y).sub_(w.mT @ x))

    def _exactly(self, square: Tensor, x: Tensor, y: Tensor, limit: float) -> None:
        near = torch.nonzero(square < limit)
        for part in near.split(2**14):
            row, column = part.unbind(1)
            square[row, column] = (x[row] - y[column]).square_().sum(1)


Similarities = Inner | Distances


def similarities(x: Tensor, y: Tensor | Columns, measure: Measure) -> Similarities:
    """Return the tiles of a measure; ``y`` may be ``x`` itself."""
    return Inner(x, y) if is_product(measure) else Distances(x, y, squared=measure == "squared_euclidean")


class _AtPairs(torch.autograd.Function):
    """Similarity of listed pairs, a few thousand rows at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        row: Tensor,
        column: Tensor,
        measure: Measure,
        stored: tuple[Stored | None, Stored | None],
    ) -> Tensor:
        ctx.save_for_backward(x, y, row, column)
        ctx.measure, ctx.stored = measure, stored
        left, right = columns(x, stored[0]), columns(x if y is None else y, stored[1])
        s, size = x.new_empty(len(row)), _chunk(x.shape[1])

        def work(index: int) -> None:
            part = slice(index * size, (index + 1) * size)
            s[part] = row_by_row(_some(left, row[part]), _some(right, column[part]), measure)

        in_turn(work, [(index,) for index in range(-(-len(row) // size))])
        return s

    @staticmethod
    @torch.autograd.function.once_differentiable
    @plainly()
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (gradient,), (x, y, row, column) = grad_outputs, ctx.saved_tensors
        dx = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        dy = dx if y is None else torch.zeros_like(y) if ctx.needs_input_grad[1] else None
        left, right = columns(x, ctx.stored[0]), columns(x if y is None else y, ctx.stored[1])
        push_pairs(gradient, left, right, row, column, ctx.measure, dx, dy)
        return dx, None if y is None else dy, None, None, None, None


def push_pairs(
    gradient: Tensor,
    x: Tensor | Columns,
    y: Tensor | Columns,
    row: Tensor,
    column: Tensor,
    measure: Measure,
    dx: Tensor | None,
    dy: Tensor | None,
) -> None:
    """Add the gradient of listed similarities to ``dx`` and ``dy``; stored rows have none."""
    size = _chunk((x.given if isinstance(x, Columns) else x).shape[1])
    for i, j, g in zip(row.split(size), column.split(size), gradient.split(size), strict=True):
        by_row, by_column = _slopes(_some(x, i), _some(y, j), measure)
        _add_rows(dx, x, i, by_row.mul_(g[:, None]))
        _add_rows(dy, y, j, by_column.mul_(g[:, None]))


def _chunk(dim: int) -> int:
    """How many listed pairs to gather the rows of at a time."""
    return max(1, GATHERED // max(1, dim))


def _some(x: Tensor | Columns, rows: slice | Tensor) -> Tensor:
    # Several times as fast as x[rows].
    return x.index_select(0, rows) if isinstance(x, Tensor) and isinstance(rows, Tensor) else x[rows]


def _add_rows(gradient: Tensor | None, x: Tensor | Columns, rows: Tensor, values: Tensor) -> None:
    if gradient is None:
        return
    if isinstance(x, Columns):
        given = rows < len(gradient)
        rows, values = rows[given], values[given]
    gradient.index_add_(0, rows, values.to(gradient.dtype))


def at_pairs(
    x: Tensor,
    y: Tensor,
    row: Tensor,
    column: Tensor,
    measure: Measure,
    stored: tuple[Stored | None, Stored | None] = (None, None),
) -> Tensor:
    """Similarity of row ``row[k]`` of x with row ``column[k]`` of y; nothing of size [pair, dim] is kept.

    Args:
        stored: what follows the rows of x and of y, without gradient.
    """
    return _AtPairs.apply(x, None if y is x else y, row, column, measure, stored)  # pyrefly: ignore


def _slopes(x: Tensor, y: Tensor, measure: Measure) -> tuple[Tensor, Tensor]:
    """ds/dx and ds/dy of each pair of rows; the rows are used up."""
    if is_product(measure):
        return y, x
    difference = y - x
    if measure == "squared_euclidean":
        difference.mul_(2.0)
    else:
        distance = difference.norm(dim=1, keepdim=True)
        difference.div_(distance.masked_fill_(distance == 0, 1.0))
    return difference, -difference


def _longest(x: Tensor | Columns) -> float:
    return max(read(longest(x.given)), x.stored.longest()) if isinstance(x, Columns) else read(longest(x))
