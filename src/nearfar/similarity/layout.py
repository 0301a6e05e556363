"""Where things lie: the order of the rows, the tiles, and the few pairs of a tile that are no negatives."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from nearfar.similarity.labels import SameClass
from nearfar.similarity.relation import Relation


@dataclass(frozen=True)
class Side:
    """One set of rows: their order and how they are cut into blocks."""

    order: Int[Tensor, " row"]
    size: int

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def place(self) -> Int[Tensor, " row"]:
        """Where each row lies in the order."""
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(len(self.order), device=place.device)
        return place

    @cached_property
    def blocks(self) -> list[slice]:
        return [slice(a, min(a + self.size, len(self))) for a in range(0, len(self), self.size)]


class Layout:
    """Rows and columns sorted so that pairs of one kind lie close together, cut into tiles.

    Attributes:
        symmetric: a batch against itself: the tiles on and above the diagonal hold every pair.
        anchors, candidates: the order and the blocks of each side.
    """

    def __init__(self, relation: Relation, anchors: int, candidates: int, tile: int, symmetric: bool) -> None:
        order, candidate_order = relation.kinship.order()
        self.relation = relation
        self.symmetric = symmetric
        rows, columns = _sizes(anchors, candidates, tile, self.symmetric)
        self.anchors = Side(order, rows)
        self.candidates = self.anchors if self.symmetric else Side(candidate_order, columns)

    def others(self) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
        """Every pair (row, column) that is no negative, in sorted places."""
        anchor, candidate = self.relation.not_negative()
        return self.anchors.place[anchor], self.candidates.place[candidate]

    @property
    def pairs_lie_together(self) -> bool:
        """Whether the positives of rows that lie together lie together too."""
        return isinstance(self.relation.kinship, SameClass)

    @cached_property
    def class_size(self) -> int | None:
        """How many rows each class has, in a batch against itself with classes of one size; else None."""
        kinship = self.relation.kinship
        if not self.symmetric or not isinstance(kinship, SameClass) or not len(self.anchors):
            return None
        sizes = kinship.sizes
        return int(sizes[0]) if bool((sizes == sizes[0]).all()) else None

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Run through the tiles (row block, column block) in rounds; those of a round share no block."""
        rows, columns = len(self.anchors.blocks), len(self.candidates.blocks)
        if self.symmetric:
            for turn in range(rows):
                for i in range(rows):
                    if i <= (j := (turn - i) % rows):
                        yield i, j
        else:
            for turn in range(max(rows, columns)):
                for k in range(min(rows, columns)):
                    other = (k + turn) % max(rows, columns)
                    yield (k, other) if rows <= columns else (other, k)

    def masked(self, i: int, j: int) -> Int[Tensor, " pair"] | None:
        """Places within tile (i, j), counted row by row, that are no negatives; None if there are none."""
        flat, start = self._by_tile
        tile = i * len(self.candidates.blocks) + j
        return flat[start[tile] : start[tile + 1]] if start[tile] < start[tile + 1] else None

    @cached_property
    def _by_tile(self) -> tuple[Tensor, list[int]]:
        row, column = self.others()
        width = self.candidates.size
        i, j = row // self.anchors.size, column // width
        if self.symmetric:
            upper = i <= j
            row, column, i, j = row[upper], column[upper], i[upper], j[upper]
        tile = i * len(self.candidates.blocks) + j
        # The last block of columns may be narrower than the others.
        width = (len(self.candidates) - j * width).clamp_max_(width)
        flat = (row - i * self.anchors.size) * width + (column - j * self.candidates.size)
        count = torch.bincount(tile, minlength=len(self.anchors.blocks) * len(self.candidates.blocks))
        return flat[torch.argsort(tile)], [0, *count.cumsum(0).tolist()]

    def others_by_part(
        self, parts: list[slice], over_candidates: bool
    ) -> tuple[tuple[Tensor, Tensor], list[int]]:
        """Order the pairs that are no negatives by the part of their other side; say where parts start.

        Returns:
            (row, other), rows being anchors, or candidates with ``over_candidates``.
        """
        row, other = reversed(self.others()) if over_candidates else self.others()
        order = torch.argsort(other)
        edges = torch.tensor([*(part.start for part in parts), 2**62], device=row.device)
        return (row[order], other[order]), torch.searchsorted(other[order], edges).tolist()


def _sizes(anchors: int, candidates: int, tile: int, symmetric: bool) -> tuple[int, int]:
    """Choose the sides of a tile: about ``tile`` squared, in blocks enough for two threads, or for four.

    Blocks are of nearly the same size. The number of threads plays no part, so that sums do not depend on it.
    """
    blocks = max(min(2 if symmetric else 4, anchors), -(-anchors // tile))
    rows = max(1, -(-anchors // max(1, blocks)))
    return (rows, rows) if symmetric else (rows, max(1, min(candidates, tile * tile // rows)))
