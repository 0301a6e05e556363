"""How the largest, the smallest and the k largest take in a tile; one pair gets the gradient."""

import torch
from torch import Tensor

from nearfar.similarity.tiled.curve_steps import edges_of, forked
from nearfar.similarity.tiled.layout import Side
from nearfar.similarity.tiled.tile import BIG, Edge, Tile, Weights

PART = 256
"""Rows of the other side in a part."""


class ExtremeStep:
    """max_j s_ij, or max { s_ij : s_ij < t_i } for each row of a matrix of thresholds [threshold, row].

    Each tile leaves only a largest value and the part of the tile that has it; which pair it was is looked up
    afterwards, in that part (``two_passes.find``); of equals the first in sorted order.
    ``sign=-1`` gives the smallest.

    Where the interval has a lower bound only (``above``), the largest value is held against it at the end.
    """

    differentiable = False

    def __init__(
        self,
        thresholds: Tensor | None,
        side: Side,
        other: Side,
        over_candidates: bool,
        like: Tensor,
        sign: float = 1.0,
        above: Tensor | None = None,
    ) -> None:
        self.thresholds, self.over_candidates, self.sign = thresholds, over_candidates, sign
        self.above = above
        self.fill = -torch.inf * sign
        depth = 1 if thresholds is None else len(thresholds)
        self.value = like.new_full((depth, len(side)), -torch.inf)
        self.where = torch.full((depth, len(side)), 2**62, device=like.device)
        self.first, self.parts = [], []
        for block in other.blocks:
            self.first.append(len(self.parts))
            self.parts += [slice(a, min(a + PART, block.stop)) for a in range(block.start, block.stop, PART)]

    def visit(self, tile: Tile) -> bool:
        for edge in edges_of(tile, self.over_candidates):
            for k in range(len(self.value)):
                self._take(self.value[k, edge.rows], self.where[k, edge.rows], *self._best(edge, k))
        return False

    def fork(self) -> "ExtremeStep":
        return forked(self, "value", "where")

    def join(self, other: "ExtremeStep") -> None:
        self._take(self.value, self.where, other.value, other.where)

    def result(self) -> Tensor:
        value = self.value.masked_fill(self.value < -BIG / 10, -torch.inf) * self.sign
        if self.above is not None:
            value = value.masked_fill(value <= self.above, -torch.inf)
        return value[0] if self.thresholds is None else value

    def receive(self, gradient: Tensor | None) -> None:
        """Nothing to prepare: the pairs behind the values are looked up."""

    def weigh(self, tile: Tile, weights: Weights) -> None:
        """Nothing to add: the gradient has one entry a row."""

    def _take(self, value: Tensor, where: Tensor, best: Tensor, part: Tensor) -> None:
        # Of equal values the first counts, whatever the order of the visits.
        better = (best > value) | ((best == value) & (where > part))
        where.copy_(torch.where(better, part, where))
        torch.maximum(value, best, out=value)

    def _best(self, edge: Edge, k: int) -> tuple[Tensor, Tensor]:
        """Each row's extreme in the tile, and the number of the part of the other side that holds it."""
        s, out = edge.s, edge.buffer("values")
        if self.above is None and edge.inside is not None:
            s = torch.sub(edge.inside, 1.0, out=out).mul_(BIG * self.sign).add_(s)
        if self.thresholds is not None:
            reached = torch.ge(s, self.thresholds[k, edge.rows, None], out=edge.buffer("each"))
            s = reached.mul_(-BIG).add_(s)
        first = self.first[edge.other]
        if s.shape[1] % PART:
            ends = torch.stack([self._ends(x, 1) for x in s.split(PART, 1)])
        elif edge.flip:  # along the memory, whichever side is seen
            ends = self._ends(s.mT.unflatten(0, (-1, PART)), 1)
        else:
            ends = self._ends(s.unflatten(1, (-1, PART)), 2).mT
        best, part = ends.max(0)
        return best, part.add_(first)

    def _ends(self, s: Tensor, axis: int) -> Tensor:
        """The largest along an axis, or the smallest, negated."""
        return s.amax(axis) if self.sign > 0 else s.amin(axis).neg_()


class TopKStep:
    """The k largest s_ij of each row and where they lie (sorted places), nearest first; -1 for none."""

    fill = -torch.inf
    differentiable = False

    def __init__(self, k: int, side: Side, columns: Side, over_candidates: bool, like: Tensor) -> None:
        self.k, self.over_candidates, self.columns = k, over_candidates, columns
        self.value = like.new_full((len(side), k), -torch.inf)
        self.place = torch.full((len(side), k), -1, device=like.device)

    def visit(self, tile: Tile) -> bool:
        for edge in edges_of(tile, self.over_candidates):
            s = edge.s
            if edge.inside is not None:
                out = edge.buffer("values")
                s = torch.sub(edge.inside, 1.0, out=out).mul_(BIG).add_(s)
            value, place = largest(s, min(self.k, s.shape[1]))
            self._take(edge.rows, value, place + self.columns.blocks[edge.other].start)
        return False

    def fork(self) -> "TopKStep":
        return forked(self, "value", "place")

    def join(self, other: "TopKStep") -> None:
        self._take(slice(None), other.value, other.place)

    def result(self) -> Tensor:
        return self.place.masked_fill(self.value < -BIG / 10, -1)

    def _take(self, rows: slice, value: Tensor, place: Tensor) -> None:
        value = torch.cat([self.value[rows], value], 1)
        place = torch.cat([self.place[rows], place], 1)
        # By value and then by place: of equals the first counts, whatever the order of the visits.
        order = place.argsort(dim=1)
        order = order.gather(1, value.gather(1, order).argsort(dim=1, descending=True, stable=True))
        self.value[rows] = value.gather(1, order[:, : self.k])
        self.place[rows] = place.gather(1, order[:, : self.k])

    def receive(self, gradient: Tensor | None) -> None:
        """Nothing: places have no gradient."""

    def weigh(self, tile: Tile, weights: Weights) -> None:
        """Nothing: places have no gradient."""


def largest(s: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the k largest entries of each row, largest first; of equals the first column."""
    value, column = s.topk(k, 1, sorted=True)
    again = (s >= value[:, -1:]).sum(1) > k
    again |= (value[:, 1:] == value[:, :-1]).any(1)
    if again.any():
        some = s[again].sort(dim=1, descending=True, stable=True)
        value[again], column[again] = some.values[:, :k], some.indices[:, :k]
    return value, column
