"""One pass over all tiles for several reductions, and the second pass that gives its gradient."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nearfar.similarity.interval import Interval
from nearfar.similarity.stable import places_in
from nearfar.similarity.stored import Columns
from nearfar.similarity.threads import in_turn
from nearfar.similarity.tiled.curve_steps import CurveStep
from nearfar.similarity.tiled.extreme_steps import PART, ExtremeStep, TopKStep
from nearfar.similarity.tiled.layout import Layout
from nearfar.similarity.tiled.similarities import Similarities
from nearfar.similarity.tiled.softmax_steps import SoftmaxStep
from nearfar.similarity.tiled.tile import Tile, Weights

AnyStep = CurveStep | SoftmaxStep | ExtremeStep | TopKStep

KEPT = 40 * 2**20
"""Bytes of tiles up to which the second pass finds them again, instead of making them again."""


class Lane:
    """Steps, by the similarity that ignores a pair, and a gradient of the rows, for some of the tiles."""

    def __init__(self, steps: Sequence[AnyStep], dx: Tensor | None) -> None:
        self.steps, self.dx = steps, dx
        self.groups: dict[float, list[AnyStep]] = {}
        for step in steps:
            self.groups.setdefault(step.fill, []).append(step)


@dataclass
class Scan:
    """The tiles of one block, visited for some steps.

    Attributes:
        s: the similarities of sorted vectors.
        interval: bounds of each anchor, in sorted places.
        symmetric: use each tile above the diagonal for its rows and for its columns.
        active: the tiles whose similarities may get gradient, known after ``forward``.
        kept: their similarities, if there is to be a second pass and all tiles together take few bytes.
    """

    layout: Layout
    s: Similarities
    interval: Interval
    steps: Sequence[AnyStep]
    symmetric: bool
    active: list[tuple[int, int]] | None = None
    kept: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def forward(
        self, with_weights: bool, need_y: bool, only_stored: bool = False, again: bool = False
    ) -> tuple[Tensor | None, Tensor | None]:
        """Visit every tile; ``with_weights`` also gathers the gradient for an upstream of 1 everywhere.

        Args:
            again: whether there will be a second pass.
            only_stored: gather it for the candidates that are stored; these tiles are then done with.
        """
        tiles = list(self.layout.tiles())
        active = [False] * len(tiles)
        dx, dy = self._gradients(need_y) if with_weights else (None, None)
        lanes = self._lanes(dx)
        keep = again and self._bytes() <= KEPT

        def work(index: int) -> None:
            tile = self._tile(*tiles[index])
            lane = lanes[tile.place[1] % len(lanes)]
            for fill, steps in lane.groups.items():
                tile.fill(fill)
                for step in steps:
                    active[index] |= step.visit(tile) and step.differentiable
            if active[index] and (not only_stored or self._is_stored(tile.place[1])):
                self._push(tile, lane, dy)
                active[index] = not only_stored
            if keep and active[index]:
                self.kept[tile.place] = tile.s

        in_turn(work, self._keys(tiles, any(step.over_candidates for step in self.steps) or dy is not None))
        self._join(lanes)
        self.active = [tile for tile, used in zip(tiles, active, strict=True) if used]
        return dx, dy

    def backward(self, need_y: bool) -> tuple[Tensor, Tensor | None]:
        """Visit the active tiles again and turn the steps' weights into gradients of the sorted vectors."""
        assert self.active is not None
        tiles = self.active
        dx, dy = self._gradients(need_y)
        lanes = self._lanes(dx)

        def work(index: int) -> None:
            self._push(self._tile(*tiles[index]), lanes[tiles[index][1] % len(lanes)], dy)

        in_turn(work, self._keys(tiles, dy is not None or any(step.over_candidates for step in self.steps)))
        self._join(lanes)
        return dx, dy

    def _lanes(self, dx: Tensor | None) -> list[Lane]:
        """Return as many lanes as the layout has; what belongs to columns is shared, for lanes share none."""
        lanes = [Lane(self.steps, dx)]
        for _ in range(1, self.layout.lanes):
            steps = [step if step.over_candidates else step.fork() for step in self.steps]
            lanes.append(Lane(steps, None if dx is None else torch.zeros_like(dx)))
        return lanes

    def _join(self, lanes: list[Lane]) -> None:
        """Add up the lanes, always in the same order."""
        first, *others = lanes
        for lane in others:
            for step, other in zip(first.steps, lane.steps, strict=True):
                if other is not step:
                    step.join(other)  # pyrefly: ignore[bad-argument-type], forks are of the same kind
            if first.dx is not None and lane.dx is not None:
                first.dx += lane.dx

    def _push(self, tile: Tile, lane: Lane, dy: Tensor | None) -> None:
        dx = lane.dx
        if dx is None:
            return
        gathered = Weights(tile)
        for fill, steps in lane.groups.items():
            tile.fill(fill)
            for step in steps:
                if step.differentiable:
                    step.weigh(tile, gathered)
        weights = gathered.matrix
        if tile.others is not None:
            weights.view(-1).index_fill_(0, tile.others, 0.0)
        rows, columns = self._blocks(tile.place)
        if not self.symmetric:
            given = dy is not None and columns.stop <= len(dy)  # what is stored has no gradient
            self.s.push(weights, tile.s, rows, columns, dx[rows], dy[columns] if given else None)
        elif tile.place[0] == tile.place[1]:
            both = torch.add(weights, weights.mT, out=tile.buffer("values"))
            self.s.push(both, tile.s, rows, columns, dx[rows], None)
        else:
            self.s.push(weights, tile.s, rows, columns, dx[rows], dx[columns])

    def _tile(self, i: int, j: int) -> Tile:
        rows, columns = blocks = self._blocks((i, j))
        s = self.kept.pop((i, j), None)
        s = self.s.tile(rows, columns) if s is None else s
        return Tile(s, (i, j), blocks, self.symmetric, self.interval, self.layout.masked(i, j))

    def _bytes(self) -> int:
        rows, columns = len(self.layout.anchors), len(self.layout.candidates)
        pairs = rows * (rows + self.layout.anchors.size) // 2 if self.symmetric else rows * columns
        return pairs * self.s.dtype.itemsize

    def _is_stored(self, block: int) -> bool:
        border = self.layout.candidates.border
        return border is not None and self.layout.candidates.blocks[block].start >= border

    def _blocks(self, place: tuple[int, int]) -> tuple[slice, slice]:
        return self.layout.anchors.blocks[place[0]], self.layout.candidates.blocks[place[1]]

    def _gradients(self, need_y: bool) -> tuple[Tensor, Tensor | None]:
        dx, y = torch.zeros_like(self.s.x), self.s.y
        need_y = need_y and not self.symmetric
        return dx, torch.zeros_like(y.given if isinstance(y, Columns) else y) if need_y else None

    def _keys(self, tiles: list[tuple[int, int]], columns_change: bool) -> list[tuple[int, ...]]:
        """What each tile changes: rows of blocks i and, where columns have state too, of block j."""
        if self.symmetric:
            return [(i, j) if i != j else (i,) for i, j in tiles]
        lanes = self.layout.lanes
        rows = [i * lanes + j % lanes for i, j in tiles]
        shift = lanes * len(self.layout.anchors.blocks)
        if not columns_change:
            return [(row,) for row in rows]
        return [(row, shift + j) for row, (_, j) in zip(rows, tiles, strict=True)]


def find(scan: Scan, step: ExtremeStep) -> Tensor:
    """Look up which pair each row's extreme is: its place on the other side [threshold, row], -1 for none."""
    layout = scan.layout
    place = torch.full(step.value.shape, -1, device=step.value.device)
    (row, other), start = layout.others_by_part(step.parts, step.over_candidates)
    found = step.result().view(step.value.shape).isfinite()

    for k in range(len(place)):
        groups = _groups(torch.where(found[k], step.where[k], -1))

        def work(index: int, k: int = k, groups: list[tuple[int, Tensor]] = groups) -> None:
            j, rows = groups[index]
            part = step.parts[j]
            # Full multiples: a fast product is prepared once for each shape, which takes time and memory.
            some = torch.cat([rows, rows[-1:].expand(-len(rows) % PART)])
            s = scan.s.tile(part, some).mT if step.over_candidates else scan.s.tile(some, part)
            # The pair whose similarity is the value found: a second look may differ in its last bit.
            apart = (s[: len(rows)] * step.sign).sub_(step.value[k, rows, None]).abs_()
            near, far = row[start[j] : start[j + 1]], other[start[j] : start[j + 1]]
            at = torch.searchsorted(rows, near).clamp_max(len(rows) - 1)
            there = places_in(rows[at] == near)
            apart[at[there], far[there] - part.start] = torch.inf
            place[k, rows] = part.start + apart.argmin(1)

        in_turn(work, [(index,) for index in range(len(groups))])
    return place


def _groups(number: Tensor) -> list[tuple[int, Tensor]]:
    """Each number (from 0 on) that comes in ``number``, with the rows it comes in, in order."""
    known = number.cpu().numpy()
    numbers, sizes = np.unique(known, return_counts=True)
    order = torch.from_numpy(known.argsort(kind="stable")).to(number.device)
    groups = zip(numbers.tolist(), order.split(sizes.tolist()), strict=True)
    return [group for group in groups if group[0] >= 0]
