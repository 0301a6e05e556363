"""One pass over all tiles for several reductions, and the second pass that gives its gradient."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.similarity.extreme_steps import PART, ExtremeStep, TopKStep
from nearfar.similarity.interval import Interval
from nearfar.similarity.layout import Layout
from nearfar.similarity.products import Similarities
from nearfar.similarity.softmax_steps import SoftmaxStep
from nearfar.similarity.steps import CurveStep
from nearfar.similarity.threads import in_turn
from nearfar.similarity.tile import Tile, Weights

AnyStep = CurveStep | SoftmaxStep | ExtremeStep | TopKStep


@dataclass
class Scan:
    """The tiles of one block, visited for some steps.

    Attributes:
        s: the similarities of sorted vectors.
        interval: bounds of each anchor, in sorted places.
        symmetric: use each tile above the diagonal for its rows and for its columns.
        active: the tiles whose similarities may get gradient, known after ``forward``.
    """

    layout: Layout
    s: Similarities
    interval: Interval
    steps: Sequence[AnyStep]
    symmetric: bool
    active: list[tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        self.groups: dict[float, list[AnyStep]] = {}
        for step in self.steps:
            self.groups.setdefault(step.fill, []).append(step)

    def forward(self, with_weights: bool, need_y: bool) -> tuple[Tensor | None, Tensor | None]:
        """Visit every tile; ``with_weights`` also gathers the gradient for an upstream of 1 everywhere."""
        tiles = list(self.layout.tiles())
        active = [False] * len(tiles)
        dx, dy = self._gradients(need_y) if with_weights else (None, None)

        def work(index: int) -> None:
            tile = self._tile(*tiles[index])
            for fill, steps in self.groups.items():
                tile.fill(fill)
                for step in steps:
                    active[index] |= step.visit(tile) and step.differentiable
            if dx is not None and active[index]:
                self._push(tile, dx, dy)

        in_turn(work, self._keys(tiles, any(step.over_candidates for step in self.steps) or dy is not None))
        self.active = [tile for tile, used in zip(tiles, active, strict=True) if used]
        return dx, dy

    def backward(self, need_y: bool) -> tuple[Tensor, Tensor | None]:
        """Visit the active tiles again and turn the steps' weights into gradients of the sorted vectors."""
        assert self.active is not None
        tiles = self.active
        dx, dy = self._gradients(need_y)

        def work(index: int) -> None:
            self._push(self._tile(*tiles[index]), dx, dy)

        in_turn(work, self._keys(tiles, dy is not None or any(step.over_candidates for step in self.steps)))
        return dx, dy

    def _push(self, tile: Tile, dx: Tensor, dy: Tensor | None) -> None:
        gathered = Weights(tile)
        for fill, steps in self.groups.items():
            tile.fill(fill)
            for step in steps:
                if step.differentiable:
                    step.weigh(tile, gathered)
        weights = gathered.matrix
        if tile.others is not None:
            weights.view(-1).index_fill_(0, tile.others, 0.0)
        rows, columns = self._blocks(tile.place)
        if not self.symmetric:
            self.s.push(weights, tile.s, rows, columns, dx[rows], None if dy is None else dy[columns])
        elif tile.place[0] == tile.place[1]:
            both = torch.add(weights, weights.mT, out=tile.buffer("values"))
            self.s.push(both, tile.s, rows, columns, dx[rows], None)
        else:
            self.s.push(weights, tile.s, rows, columns, dx[rows], dx[columns])

    def _tile(self, i: int, j: int) -> Tile:
        rows, columns = blocks = self._blocks((i, j))
        s = self.s.tile(rows, columns)
        return Tile(s, (i, j), blocks, self.symmetric, self.interval, self.layout.masked(i, j))

    def _blocks(self, place: tuple[int, int]) -> tuple[slice, slice]:
        return self.layout.anchors.blocks[place[0]], self.layout.candidates.blocks[place[1]]

    def _gradients(self, need_y: bool) -> tuple[Tensor, Tensor | None]:
        dx = torch.zeros_like(self.s.x)
        return dx, torch.zeros_like(self.s.y) if need_y and not self.symmetric else None

    def _keys(self, tiles: list[tuple[int, int]], columns_change: bool) -> list[tuple[int, ...]]:
        """What each tile changes: rows of blocks i and, where columns have state too, of block j."""
        if self.symmetric:
            return [(i, j) if i != j else (i,) for i, j in tiles]
        shift = len(self.layout.anchors.blocks)
        return [(i, shift + j) if columns_change else (i,) for i, j in tiles]


def find(scan: Scan, step: ExtremeStep) -> Tensor:
    """Look up which pair each row's extreme is: its place on the other side [threshold, row], -1 for none."""
    layout = scan.layout
    place = torch.full(step.value.shape, -1, device=step.value.device)
    (row, other), start = layout.others_by_part(step.parts, step.over_candidates)
    found = step.result().view(step.value.shape).isfinite()

    for k in range(len(place)):
        rows_of = _groups(torch.where(found[k], step.where[k], len(step.parts)), len(step.parts))

        def work(j: int, k: int = k, rows_of: list[Tensor] = rows_of) -> None:
            rows, part = rows_of[j], step.parts[j]
            if not len(rows):
                return
            # Full multiples: a fast product is prepared once for each shape, which takes time and memory.
            some = torch.cat([rows, rows[-1:].expand(-len(rows) % PART)])
            s = scan.s.tile(part, some).mT if step.over_candidates else scan.s.tile(some, part)
            # The pair whose similarity is the value found: a second look may differ in its last bit.
            apart = (s[: len(rows)] * step.sign).sub_(step.value[k, rows, None]).abs_()
            near, far = row[start[j] : start[j + 1]], other[start[j] : start[j + 1]]
            at = torch.searchsorted(rows, near).clamp_max(len(rows) - 1)
            there = rows[at] == near
            apart[at[there], far[there] - part.start] = torch.inf
            place[k, rows] = part.start + apart.argmin(1)

        in_turn(work, [(j,) for j in range(len(step.parts))])
    return place


def _groups(number: Tensor, count: int) -> list[Tensor]:
    """Rows of each number below ``count``, in order."""
    order = torch.argsort(number, stable=True)
    sizes = torch.bincount(number, minlength=count + 1).tolist()
    return list(order.split(sizes))[:count]
