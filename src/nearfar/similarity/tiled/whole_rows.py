"""What needs all of a row at once: order statistics and draws, a few rows at a time.

A strip holds the similarities of a few anchors with every candidate; memory is that of the strip.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.similarity.dense.reduce import draw
from nearfar.similarity.interval import Interval
from nearfar.similarity.reductions import OrderStatistic, Sample
from nearfar.similarity.threads import in_turn
from nearfar.similarity.tiled.layout import Layout
from nearfar.similarity.tiled.similarities import Similarities

ELEMENTS = 2**20
"""Similarities in a strip."""
FEWEST = 16
"""Rows of a strip at least where candidates are stored, which are read anew for each strip."""


class Strips:
    """Rows of similarities in sorted places, with what is no negative, or outside the interval, marked."""

    def __init__(self, layout: Layout, s: Similarities, interval: Interval) -> None:
        self.layout, self.s, self.interval = layout, s, interval
        row, column = layout.others()
        order = torch.argsort(row)
        self.row, self.column = row[order], column[order]
        step = max(
            1 if layout.candidates.border is None else FEWEST, ELEMENTS // max(1, len(layout.candidates))
        )
        self.parts = [
            slice(a, min(a + step, len(layout.anchors))) for a in range(0, len(layout.anchors), step)
        ]
        starts = torch.tensor([*(part.start for part in self.parts), len(layout.anchors)], device=row.device)
        self.first = torch.searchsorted(self.row, starts).tolist()

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> tuple[slice, Tensor]:
        """Return the rows and their similarities; -inf marks what is no negative."""
        rows = self.parts[index]
        candidates = self.layout.candidates
        if candidates.border is None:
            s = self.s.tile(rows, slice(0, len(candidates)))
        else:
            s = torch.cat([self.s.tile(rows, block) for block in candidates.blocks], 1)
        pairs = slice(self.first[index], self.first[index + 1])
        s[self.row[pairs] - rows.start, self.column[pairs]] = -torch.inf
        if self.interval:
            every = torch.arange(rows.start, rows.stop, device=s.device)
            s.masked_fill_(~self.interval.holds(s, every), -torch.inf)
        return rows, s


def order_statistic(
    reduction: OrderStatistic, layout: Layout, s: Similarities, interval: Interval
) -> Float[Tensor, " anchor"]:
    """The rank-th largest of each anchor (or of all), exact to the last bit.

    Floats have the order of their bits: bisection over the bits finds the value by counting.
    """
    strips = Strips(layout, s, interval)
    n = len(layout.anchors)
    rank = layout.anchors.sorted(torch.as_tensor(reduction.rank, device=strips.row.device).expand(n))
    dtype = s.dtype
    if reduction.over == "batch":
        return _over_batch(strips, int(rank[0]) if n else 1, n, dtype)
    value = torch.empty(n, dtype=dtype, device=rank.device)

    def work(index: int) -> None:
        rows, strip = strips[index]
        value[rows] = _bisect(lambda t: (strip > t[:, None]).sum(1), rank[rows], dtype)

    in_turn(work, [(index,) for index in range(len(strips))])
    return layout.anchors.unsorted(value)


def draw_samples(
    reduction: Sample, layout: Layout, s: Similarities, interval: Interval
) -> Int[Tensor, "anchor k"]:
    """Draw candidates of each anchor; columns are taken in the order given, so that tiles play no part."""
    strips = Strips(layout, s, interval)
    uniform = layout.anchors.sorted(reduction.uniform)
    columns = torch.empty(uniform.shape, dtype=torch.long, device=uniform.device)

    def work(index: int) -> None:
        rows, strip = strips[index]
        strip = strip if layout.as_given else strip[:, layout.candidates.place]
        keep = strip > -torch.inf
        columns[rows] = draw(reduction.log_weight(strip.masked_fill(~keep, 0.0)), keep, uniform[rows])

    in_turn(work, [(index,) for index in range(len(strips))])
    return layout.anchors.unsorted(columns)


def _over_batch(strips: Strips, rank: int, n: int, dtype: torch.dtype) -> Tensor:
    """The rank-th largest of all strips: every strip is counted for each bit."""
    device = strips.row.device

    def above(t: Tensor) -> Tensor:
        counts = torch.zeros(len(strips), dtype=torch.long, device=device)

        def work(index: int) -> None:
            _, strip = strips[index]
            counts[index] = (strip > t).sum()

        in_turn(work, [(index,) for index in range(len(strips))])
        return counts.sum()[None]

    return _bisect(above, torch.tensor([rank], device=device), dtype).expand(n)


def _bisect(above, rank: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest float t with at most rank - 1 values above it: the rank-th largest value."""
    bits = torch.int32 if dtype == torch.float32 else torch.int64
    low = torch.full(
        rank.shape, _ordered(torch.tensor(-torch.inf, dtype=dtype)), dtype=bits, device=rank.device
    )
    high = torch.full(
        rank.shape, _ordered(torch.tensor(torch.inf, dtype=dtype)), dtype=bits, device=rank.device
    )
    while bool((low < high).any()):
        # Halfway without overflow: the ends may lie on both sides of zero.
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        few = above(_float(middle, dtype)) <= rank - 1
        low, high = torch.where(few, low, middle + 1), torch.where(few, middle, high)
    return _float(low, dtype).masked_fill(rank < 1, torch.inf)


def _ordered(x: Tensor) -> int:
    """The whole number that has the place of a float in the order of all floats."""
    bits = int(x.view(torch.int32 if x.dtype == torch.float32 else torch.int64))
    mask = 0x7FFFFFFF if x.dtype == torch.float32 else 0x7FFFFFFFFFFFFFFF
    return bits if bits >= 0 else -(bits & mask)


def _float(ordered: Tensor, dtype: torch.dtype) -> Tensor:
    """The float at a place in the order of all floats."""
    low = torch.iinfo(ordered.dtype).min
    return torch.where(ordered >= 0, ordered, low - ordered).view(dtype)
