"""Tiles of similarities between two sets of vectors, and gradients of the vectors from weights on a tile."""

from typing import Any

import torch
from torch import Tensor

from nearfar.similarity.measure import Measure, is_product, row_by_row
from nearfar.similarity.product import choose_product
from nearfar.similarity.threads import plainly
from nearfar.similarity.tile import scratch

NEAR = 1e-6
"""Squared distances below this share of the squared norms are taken from the differences."""


CHUNK = 2**11
"""Listed pairs whose rows are gathered at a time."""


class Inner:
    """s = <x, y>."""

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.product = (
            choose_product(x.shape[1], x.device) if x.dtype == torch.float32 else lambda a, b, _: a @ b.mT
        )

    def bounds(self) -> tuple[float, float]:
        """Between what similarities must lie (Cauchy and Schwarz)."""
        largest = _largest_norm(self.x)
        limit = 1.0001 * largest * (largest if self.y is self.x else _largest_norm(self.y))
        return -limit, limit

    def tile(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        """Similarities [row, column], contiguous, free to be changed."""
        return self.product(self.x[rows], self.y[columns], None)

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

    def __init__(self, x: Tensor, y: Tensor, squared: bool) -> None:
        mean = y.double().mean(0) if len(y) else 0.0
        self.dtype, self.squared = x.dtype, squared
        self.x = x.double() - mean
        self.y = self.x if y is x else y.double() - mean
        self.xx, self.yy = self.x.square().sum(1), self.y.square().sum(1)

    def bounds(self) -> tuple[float, float]:
        limit = (
            1.0001 * float(self.xx.sqrt().max() + self.yy.sqrt().max())
            if len(self.xx) and len(self.yy)
            else 0.0
        )
        return -(limit * limit if self.squared else limit), 0.0

    def tile(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        x, y = self.x[rows], self.y[columns]
        if not (len(x) and len(y)):
            return torch.empty(len(x), len(y), dtype=self.dtype, device=x.device)
        square = scratch.get("square", (len(x), len(y)), torch.float64, x.device)
        torch.mm(x, y.mT, out=square)
        norms = self.xx[rows, None], self.yy[None, columns]
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


def similarities(x: Tensor, y: Tensor, measure: Measure) -> Similarities:
    """Return the tiles of a measure; ``y`` may be ``x`` itself."""
    return Inner(x, y) if is_product(measure) else Distances(x, y, squared=measure == "squared_euclidean")


class _AtPairs(torch.autograd.Function):
    """Similarity of listed pairs, a few thousand rows at a time."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor | None, row: Tensor, column: Tensor, measure: Measure
    ) -> Tensor:
        ctx.save_for_backward(x, y, row, column)
        ctx.measure = measure
        y = x if y is None else y
        parts = [
            row_by_row(x[i], y[j], measure)
            for i, j in zip(row.split(CHUNK), column.split(CHUNK), strict=True)
        ]
        return torch.cat(parts) if parts else x.new_zeros(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @plainly()
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (gradient,), (x, y, row, column) = grad_outputs, ctx.saved_tensors
        dx = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        if y is None:
            push_pairs(gradient, x, x, row, column, ctx.measure, dx, dx)
            return dx, None, None, None, None
        dy = torch.zeros_like(y) if ctx.needs_input_grad[1] else None
        push_pairs(gradient, x, y, row, column, ctx.measure, dx, dy)
        return dx, dy, None, None, None


def push_pairs(
    gradient: Tensor,
    x: Tensor,
    y: Tensor,
    row: Tensor,
    column: Tensor,
    measure: Measure,
    dx: Tensor | None,
    dy: Tensor | None,
) -> None:
    """Add the gradient of listed similarities to ``dx`` and ``dy``."""
    for i, j, g in zip(row.split(CHUNK), column.split(CHUNK), gradient.split(CHUNK), strict=True):
        by_row, by_column = _slopes(x[i], y[j], measure)
        if dx is not None:
            dx.index_add_(0, i, by_row.mul_(g[:, None]))
        if dy is not None:
            dy.index_add_(0, j, by_column.mul_(g[:, None]))


def at_pairs(x: Tensor, y: Tensor, row: Tensor, column: Tensor, measure: Measure) -> Tensor:
    """Similarity of row ``row[k]`` of x with row ``column[k]`` of y; nothing of size [pair, dim] is kept."""
    return _AtPairs.apply(x, None if y is x else y, row, column, measure)  # pyrefly: ignore


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


def _largest_norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dim=1).max()) if len(x) else 0.0
