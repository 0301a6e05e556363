"""Hinges with very many thresholds a row: each similarity is ranked among them, not held against each."""

import torch
from torch import Tensor

from nearfar.similarity.curves import Curve, Hinge, Passed
from nearfar.similarity.tiled.curve_steps import CurveStep, edges_of
from nearfar.similarity.tiled.layout import Side
from nearfar.similarity.tiled.tile import Edge, Tile, Weights

MANY = 64
"""Thresholds of a row from which ranking each similarity is faster than K comparisons."""


class RankedStep(CurveStep):
    """Σ_j max(0, s_ij - t_ik), or how many s_ij > t_ik, for a matrix of thresholds [threshold, row].

    With the thresholds of a row in order, a similarity counts for all that lie below it: numbers and sums are
    gathered for each stretch between two thresholds, and added up from the top.
    """

    def __init__(
        self, curve: Curve, thresholds: Tensor, side: Side, over_candidates: bool, like: Tensor
    ) -> None:
        super().__init__(curve, thresholds, side, over_candidates, like)
        self.ordered, self.order = thresholds.sort(0)
        self.prefix: Tensor | None = None

    @staticmethod
    def suits(curve: Curve, thresholds: Tensor) -> bool:
        """Whether the curve can be ranked and there are thresholds enough."""
        return len(thresholds) >= MANY and isinstance(curve, Hinge | Passed)

    def visit(self, tile: Tile) -> bool:
        for edge in edges_of(tile, self.over_candidates):
            rank, inside = self._rank(edge)
            number, total = self._above(edge, rank, inside)
            thresholds = self.ordered[:, edge.rows].double()
            hinge = total - torch.where(number > 0, thresholds, 0.0) * number
            found = number if isinstance(self.curve, Passed) else hinge
            self.sums[:, edge.rows] += (
                torch.empty_like(found).scatter_(0, self.order[:, edge.rows], found).to(self.sums.dtype)
            )
        return True

    def receive(self, gradient: Tensor | None) -> None:
        super().receive(gradient)
        if gradient is not None:
            running = gradient.gather(0, self.order).cumsum(0)
            self.prefix = torch.cat([torch.zeros_like(running[:1]), running])

    def weigh(self, tile: Tile, weights: Weights) -> None:
        for edge in edges_of(tile, self.over_candidates):
            rank, inside = self._rank(edge)
            number, _ = self._above(edge, rank, inside)
            slopes = torch.empty_like(number).scatter_(0, self.order[:, edge.rows], number)
            self.slopes[:, edge.rows] += slopes.to(self.slopes.dtype)
            factor = (
                rank.to(edge.s.dtype) if self.prefix is None else self.prefix[:, edge.rows].mT.gather(1, rank)
            )
            weights.seen(edge).addcmul_(factor, inside)

    def _rank(self, edge: Edge) -> tuple[Tensor, Tensor]:
        """How many thresholds of its row lie below each similarity, and 1 for those inside the interval."""
        rank = torch.searchsorted(self.ordered[:, edge.rows].mT.contiguous(), edge.s.contiguous())
        inside = edge.inside
        return rank, torch.ones_like(edge.s) if inside is None else inside

    def _above(self, edge: Edge, rank: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """For each threshold in order: how many similarities lie above it, and their sum, in float64."""
        keep = inside.double()
        stretches = keep.new_zeros(len(rank), len(self.ordered) + 1)
        number = stretches.scatter_add(1, rank, keep)
        total = stretches.scatter_add(1, rank, edge.s.double().clamp_min(-1e30).mul_(keep))
        return tuple(x[:, 1:].flip(1).cumsum(1).flip(1).mT for x in (number, total))  # pyrefly: ignore
