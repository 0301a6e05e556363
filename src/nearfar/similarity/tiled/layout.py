"""Where things lie: the order of the rows, the tiles, and the few pairs of a tile that are no negatives."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from nearfar.similarity.labels import SameClass
from nearfar.similarity.relation import Relation
from nearfar.similarity.stable import places_in, read

WIDE = 8
"""Candidates for each anchor from which rows stay in the order given: to sort them would cost too much."""
LANES = 4
"""Parts of the work that change nothing in common, so that threads need not wait for each other."""
WIDEST = 2**13
"""Columns of a tile at most."""


@dataclass(frozen=True)
class Side:
    """One set of rows: their order and how they are cut into blocks.

    Attributes:
        size: rows of a block.
        order: which row lies at each place; None where they lie in the order given.
        border: a place at which a block ends and another begins, or None.
    """

    count: int
    size: int
    order: Int[Tensor, " row"] | None
    border: int | None = None

    def __len__(self) -> int:
        return self.count

    @cached_property
    def place(self) -> Int[Tensor, " row"] | None:
        """Where each row lies in the order; None where that is the order given."""
        if self.order is None:
            return None
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(len(self.order), device=place.device)
        return place

    @cached_property
    def blocks(self) -> list[slice]:
        border = self.count if self.border is None else self.border
        parts = [(0, border), (border, self.count)]
        return [
            slice(a, min(a + self.size, end)) for start, end in parts for a in range(start, end, self.size)
        ]

    def places(self, rows: Int[Tensor, "*some"]) -> Int[Tensor, "*some"]:
        """Say where some rows lie."""
        return rows if self.place is None else self.place[rows]

    def rows(self, places: Int[Tensor, "*some"]) -> Int[Tensor, "*some"]:
        """Say which rows lie at some places; -1, none, stays -1."""
        if self.order is None:
            return places
        return torch.cat([self.order, self.order.new_full((1,), -1)])[places]

    def sorted(self, values: Shaped[Tensor, "row *rest"]) -> Shaped[Tensor, "row *rest"]:
        """Bring one value for each row into the order of places."""
        return values if self.order is None else values[self.order]

    def unsorted(self, values: Shaped[Tensor, "row *rest"]) -> Shaped[Tensor, "row *rest"]:
        """Bring one value for each place into the order of rows."""
        return values if self.place is None else values[self.place]

    def locate(self, place: Int[Tensor, " some"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the block that each place lies in, where this starts and how many rows it has."""
        if self.border is None:
            block = place // self.size
            start, end = block * self.size, self.count
        else:
            before = -(-self.border // self.size)
            first = place < self.border
            behind = (place - self.border) // self.size
            block = torch.where(first, place // self.size, before + behind)
            start = torch.where(first, block * self.size, self.border + behind * self.size)
            end = torch.where(first, self.border, self.count)
        return block, start, (end - start).clamp_max_(self.size)


class Layout:
    """Rows and columns sorted so that pairs of one kind lie close together, cut into tiles.

    Where candidates are very many, or some of them stored, all rows stay in the order given. All of it is
    found on the host, by labels that are brought there once.

    Attributes:
        symmetric: a batch against itself: the tiles on and above the diagonal hold every pair.
        anchors, candidates: the order and the blocks of each side.
        lanes: into how many lanes the blocks of columns are dealt; each has its own sums over the rows.
    """

    def __init__(
        self,
        relation: Relation,
        anchors: int,
        candidates: int,
        tile: int,
        symmetric: bool,
        border: int | None = None,
    ) -> None:
        as_given = border is not None or (not symmetric and candidates >= WIDE * anchors)
        self.relation = relation
        host, sides = relation.on_host, (anchors, candidates, tile, symmetric, border)
        self._hosted = None if host is relation else Layout(host, *sides)
        order = candidate_order = None
        if not as_given:
            order, candidate_order = (self._here(x) for x in host.kinship.order())
        self.symmetric = symmetric
        self.as_given = as_given
        self.lanes = max(1, LANES // max(1, -(-anchors // tile))) if as_given else 1
        rows, columns = _sizes(anchors, candidates, tile, symmetric, self.lanes)
        self.anchors = Side(anchors, rows, order)
        self.candidates = (
            self.anchors if self.symmetric else Side(candidates, columns, candidate_order, border)
        )

    @property
    def host(self) -> "Layout":
        """The same with all places on the host; itself where they are there."""
        return self if self._hosted is None else self._hosted

    def others(self) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
        """Every pair (row, column) that is no negative, in sorted places."""
        if self.host is not self:
            row, column = self.host.others()
            return self._here(row), self._here(column)
        anchor, candidate = self.relation.not_negative()
        return self.anchors.places(anchor), self.candidates.places(candidate)

    def _here(self, x: Tensor) -> Tensor:
        """Bring what is known on the host to where the rows are."""
        return x.to(self.relation.kinship.device)

    @property
    def pairs_lie_together(self) -> bool:
        """Whether the positives of rows that lie together lie together too."""
        return not self.as_given and isinstance(self.relation.kinship, SameClass)

    @cached_property
    def class_size(self) -> int | None:
        """How many rows each class has, in a batch against itself with classes of one size; else None."""
        kinship = self.host.relation.kinship
        if not self.symmetric or not isinstance(kinship, SameClass) or not len(self.anchors):
            return None
        sizes = kinship.sizes
        return int(read(sizes[0])) if read((sizes == sizes[0]).all()) else None

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
        if self.host is not self:
            flat, start = self.host._by_tile
            return self._here(flat), start
        row, column = self.others()
        i, first_row, _ = self.anchors.locate(row)
        j, first_column, width = self.candidates.locate(column)
        flat = (row - first_row) * width + (column - first_column)
        if self.symmetric:
            upper = places_in(i <= j)
            flat, i, j = flat[upper], i[upper], j[upper]
        tile = i * len(self.candidates.blocks) + j
        order = torch.argsort(tile)
        edges = torch.arange(len(self.anchors.blocks) * len(self.candidates.blocks) + 1, device=tile.device)
        return flat[order], torch.searchsorted(tile[order], edges).tolist()

    def others_by_part(
        self, parts: list[slice], over_candidates: bool
    ) -> tuple[tuple[Tensor, Tensor], list[int]]:
        """Order the pairs that are no negatives by the part of their other side; say where parts start.

        Returns:
            (row, other), rows being anchors, or candidates with ``over_candidates``.
        """
        if self.host is not self:
            (row, other), start = self.host.others_by_part(parts, over_candidates)
            return (self._here(row), self._here(other)), start
        row, other = reversed(self.others()) if over_candidates else self.others()
        order = torch.argsort(other)
        edges = torch.tensor([*(part.start for part in parts), 2**62], device=row.device)
        return (row[order], other[order]), torch.searchsorted(other[order], edges).tolist()


def _sizes(anchors: int, candidates: int, tile: int, symmetric: bool, lanes: int) -> tuple[int, int]:
    """Choose the sides of a tile: about ``tile`` squared, in blocks enough for two threads, or for four.

    Blocks are of nearly the same size. The number of threads plays no part, so that sums do not depend on it.
    """
    blocks = max(min(2 if symmetric else LANES // lanes, anchors), -(-anchors // tile))
    rows = max(1, -(-anchors // max(1, blocks)))
    return (rows, rows) if symmetric else (rows, max(1, min(candidates, tile * tile // rows, WIDEST)))
