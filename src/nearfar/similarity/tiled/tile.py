"""One tile of similarities, seen from its rows and from its columns, with buffers that are used again."""

import threading
from functools import cached_property

import torch
from torch import Tensor

from nearfar.similarity.interval import Interval
from nearfar.similarity.stable import at_once, read

BIG = 1e30
"""Larger than any similarity, yet finite: a mask of 0 and 1 times this moves an entry out of every set."""


class Scratch(threading.local):
    """Buffers of a thread, by name and shape."""

    def __init__(self) -> None:
        self.flat: dict[tuple, Tensor] = {}
        self.shaped: dict[tuple, Tensor] = {}

    def get(self, name: str, like: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return a buffer; its content is whatever was left there."""
        key = (name, like, dtype, device)
        found = self.shaped.get(key)
        if found is None:
            rows, columns = like
            flat = self.flat.get((name, dtype, device))
            if flat is None or len(flat) < rows * columns:
                self.shaped = {
                    k: v for k, v in self.shaped.items() if (k[0], *k[2:]) != (name, dtype, device)
                }
                flat = torch.empty(rows * columns, dtype=dtype, device=device)
                self.flat[name, dtype, device] = flat
            found = self.shaped[key] = flat[: rows * columns].view(rows, columns)
        return found


scratch = Scratch()


class Edge:
    """A tile seen from one side: each row of ``see(...)`` is one anchor (or one candidate).

    Attributes:
        s: similarities as this side sees them.
        rows: which rows of that side, in sorted places.
        block, other: block numbers of this and of the other side.
    """

    def __init__(
        self, s: Tensor, rows: slice, block: int, other: int, flip: bool, interval: Interval
    ) -> None:
        self.shape, self.flip = (s.shape[0], s.shape[1]), flip
        self.s = self.see(s)
        self.rows, self.block, self.other, self.interval = rows, block, other, interval

    def see(self, matrix: Tensor) -> Tensor:
        """Return a matrix of the tile's shape as this side sees it."""
        return matrix.mT if self.flip else matrix

    def buffer(self, name: str) -> Tensor:
        """Return a buffer as this side sees it."""
        return self.see(scratch.get(name, self.shape, self.s.dtype, self.s.device))

    @cached_property
    def inside(self) -> Tensor | None:
        """1 where a similarity lies in the interval, else 0, as this side sees it; None without interval."""
        mask = None
        for name, bound, compare in (
            ("above", self.interval.above, torch.gt),
            ("below", self.interval.below, torch.lt),
        ):
            if bound is not None:
                here = compare(self.s, bound[self.rows, None], out=self.buffer(f"{name} {self.flip}"))
                mask = here if mask is None else mask.mul_(here)
        return mask


class CandidateEdge(Edge):
    """A tile seen from its columns as candidates: the interval is still that of the anchors, its rows."""

    def __init__(self, rows: slice, anchors: Edge) -> None:
        super().__init__(anchors.s, rows, anchors.other, anchors.block, True, Interval())
        self.anchors = anchors

    @cached_property
    def inside(self) -> Tensor | None:
        mask = self.anchors.inside
        return None if mask is None else mask.mT


class Tile:
    """Similarities of a block of anchors with a block of candidates.

    Attributes:
        s: similarities [row, column].
        place: (row block, column block).
        edges: the sides on which there are anchors: the rows, and in a batch against itself the columns too.
        columns: the side of the candidates.
        others: places, counted row by row, of pairs that are no negatives.
    """

    def __init__(
        self,
        s: Tensor,
        place: tuple[int, int],
        blocks: tuple[slice, slice],
        symmetric: bool,
        interval: Interval,
        others: Tensor | None,
    ) -> None:
        self.s, self.place, self.others = s, place, others
        (i, j), (rows, columns) = place, blocks
        self.edges = [Edge(s, rows, i, j, False, interval)]
        if symmetric and i != j:
            self.edges.append(Edge(s, columns, j, i, True, interval))
        self.columns = CandidateEdge(columns, self.edges[0])

    def buffer(self, name: str) -> Tensor:
        """Return a buffer of the tile's shape."""
        return scratch.get(name, (self.s.shape[0], self.s.shape[1]), self.s.dtype, self.s.device)

    def fill(self, value: float) -> None:
        """Set the pairs that are no negatives to a value that the reductions to come ignore."""
        if self.others is not None:
            self.s.view(-1).index_fill_(0, self.others, value)
            self.__dict__.pop("largest", None)

    @cached_property
    def largest(self) -> float:
        """The largest similarity, by which tiles are left out; a device is not waited for, tile by tile."""
        return read(self.s.max()) if at_once(self.s) else torch.inf


class Weights:
    """dL/ds on a tile, gathered term by term.

    Attributes:
        matrix: the sum so far; not to be read before the first term.
    """

    def __init__(self, tile: Tile) -> None:
        self.matrix = tile.buffer("weights")
        self.empty = True

    def add(self, term: Tensor, factor: Tensor | float) -> None:
        """Add term x factor, of the tile's shape."""
        if self.empty:
            torch.mul(term, factor, out=self.matrix)
            self.empty = False
        elif isinstance(factor, Tensor):
            self.matrix.addcmul_(term, factor)
        else:
            self.matrix.add_(term, alpha=factor)

    def seen(self, edge: Edge) -> Tensor:
        """Return the sum so far as an edge sees it, to add to."""
        if self.empty:
            self.matrix.zero_()
            self.empty = False
        return edge.see(self.matrix)
