"""How each reduction takes in a tile, and what weight it gives each similarity: sums over curves."""

from copy import copy
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from nearfar.similarity.curves import Curve, Passed
from nearfar.similarity.tiled.layout import Side
from nearfar.similarity.tiled.tile import Edge, Tile, Weights


class Step(Protocol):
    """One reduction at work: takes in tile after tile, then gives its result.

    Threads call ``visit`` and ``weigh`` for tiles that share no rows; state is indexed by the rows.

    Attributes:
        fill: what a similarity that is no negative is set to before ``visit``.
        differentiable: whether similarities get gradient in the second pass (``weigh``).
    """

    fill: float
    differentiable: bool

    def visit(self, tile: Tile) -> bool:
        """Take in a tile; return whether its similarities may get gradient."""
        ...

    def fork(self) -> "Step":
        """Return a step to visit some of the tiles with; ask before the first visit."""
        ...

    def join(self, other: "Step") -> None:
        """Take over what a fork has taken in."""
        ...

    def result(self) -> Tensor:
        """Return [row], or [threshold, row] for a matrix of thresholds."""
        ...

    def ahead(self) -> bool:
        """Prepare to ``weigh`` for an upstream of 1; whether that times ``share`` is then the gradient."""
        ...

    def share(self) -> Tensor:
        """Return what the gradient of each row is to that for an upstream of 1; after ``receive``."""
        ...

    def receive(self, gradient: Tensor | None) -> None:
        """Take the gradient of the result, before ``weigh``."""
        ...

    def weigh(self, tile: Tile, weights: Weights) -> None:
        """Add this reduction's dL/ds to ``weights``."""
        ...


AnyStep = TypeVar("AnyStep")


def forked(step: AnyStep, *state: str) -> AnyStep:
    """Return a copy of a step with a state of its own."""
    fork = copy(step)
    for name in state:
        value = getattr(step, name)
        setattr(fork, name, value.clone() if isinstance(value, Tensor) else value)
    return fork


def edges_of(tile: Tile, over_candidates: bool) -> list[Edge]:
    return [tile.columns] if over_candidates else tile.edges


def add_rows(state: Tensor, edge: Edge, values: Tensor) -> None:
    """Add the sums of ``values`` over the interval, as the edge sees them, to its rows' state."""
    inside = edge.inside
    if inside is not None:
        values = torch.mul(values, inside, out=edge.buffer("sum"))
    state.add_(values.sum(1))


class CurveStep:
    """Σ_j f(s_ij - t_i): one threshold for all rows, or a matrix [threshold, row] (+inf: none)."""

    def __init__(
        self, curve: Curve, thresholds: float | Tensor, side: Side, over_candidates: bool, like: Tensor
    ) -> None:
        self.curve, self.over_candidates = curve, over_candidates
        self.fill = curve.fill
        self.differentiable = not isinstance(curve, Passed)
        self.matrix = thresholds if isinstance(thresholds, Tensor) else None
        self.scalar = 0.0 if isinstance(thresholds, Tensor) else thresholds
        shape = (len(side),) if self.matrix is None else tuple(self.matrix.shape)
        self.sums = like.new_zeros(shape)
        self.slopes = like.new_zeros(shape)
        self.gradient: Tensor | None = None
        self.depth, self.reach = self._per_block(side)

    def visit(self, tile: Tile) -> bool:
        edges = edges_of(tile, self.over_candidates)
        if self.curve.flat and tile.largest <= min(self.reach[edge.block] for edge in edges):
            return False
        if self.matrix is None:
            values = self.curve.value(tile.s, self.scalar, tile.buffer("values"))
            for edge in edges:
                add_rows(self.sums[edge.rows], edge, edge.see(values))
        else:
            for edge in edges:
                for k in range(self.depth[edge.block]):
                    add_rows(self.sums[k, edge.rows], edge, self.curve.value(*self._at(edge, k)))
        return True

    def fork(self) -> "CurveStep":
        return forked(self, "sums", "slopes")

    def join(self, other: "CurveStep") -> None:
        self.sums += other.sums
        self.slopes += other.slopes

    def result(self) -> Tensor:
        return self.sums

    def ahead(self) -> bool:
        return self.matrix is None or len(self.matrix) == 1

    def share(self) -> Tensor:
        assert self.gradient is not None
        return self.gradient if self.matrix is None else self.gradient[0]

    def receive(self, gradient: Tensor | None) -> None:
        self.gradient = gradient
        self.slopes.zero_()

    def weigh(self, tile: Tile, weights: Weights) -> None:
        edges = edges_of(tile, self.over_candidates)
        if self.matrix is None:
            slope = self.curve.slope(tile.s, self.scalar, tile.buffer("values"))
            add_spread(weights, slope, edges, self.gradient)
            return
        for edge in edges:
            seen = weights.seen(edge)
            for k in range(self.depth[edge.block]):
                slope = self.curve.slope(*self._at(edge, k))
                if edge.inside is not None:
                    slope.mul_(edge.inside)
                self.slopes[k, edge.rows].add_(slope.sum(1))
                if self.gradient is None:
                    seen.add_(slope)
                else:
                    seen.addcmul_(slope, self.gradient[k, edge.rows, None])

    def _at(self, edge: Edge, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Similarities, the k-th threshold of each row, and a buffer, as the edge sees them."""
        assert self.matrix is not None
        return (
            edge.s,
            self.matrix[k, edge.rows, None],
            edge.buffer("values"),
        )

    def _per_block(self, side: Side) -> tuple[list[int], list[float]]:
        """How many thresholds the rows of each block have at most, and the lowest of them."""
        if self.matrix is None:
            return [1] * len(side.blocks), [self.scalar] * len(side.blocks)
        if not len(self.matrix):
            return [0] * len(side.blocks), [torch.inf] * len(side.blocks)
        number = (self.matrix < torch.inf).sum(0)
        ends = [(number[block].max().to(self.matrix), self.matrix[:, block].min()) for block in side.blocks]
        found = torch.stack([end for both in ends for end in both]).tolist() if ends else []
        return [int(most) for most in found[::2]], found[1::2]


def add_spread(weights: Weights, slope: Tensor, edges: list[Edge], gradient: Tensor | None) -> None:
    """Add slope_ij (g_i + g_j) to the weights: g_i where the pair counts for its row, g_j for its column.

    Without ``gradient`` each g is 1.
    """
    if gradient is None and edges[0].inside is None:
        weights.add(slope, float(len(edges)))
        return
    total = edges[0].see(edges[0].buffer("spread"))
    if gradient is not None and edges[0].inside is None:
        first, *second = (edge.see(gradient[edge.rows, None]) for edge in edges)
        weights.add(slope, torch.add(first, second[0], out=total) if second else first)
        return
    for number, edge in enumerate(edges):
        factor, seen = edge.inside, edge.see(total)
        assert factor is not None
        if gradient is not None:
            out = seen if number == 0 else edge.buffer("sum")
            factor = torch.mul(factor, gradient[edge.rows, None], out=out)
        if number:
            seen.add_(factor)
        elif gradient is None:
            seen.copy_(factor)
    weights.add(slope, total)
