"""How log Σ e^z and the softmax-weighted mean take in a tile, without overflow at any scale."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from nearfar.similarity.reductions import LogSumExp, SoftMean
from nearfar.similarity.stable import read
from nearfar.similarity.tiled.curve_steps import add_rows, add_spread, edges_of, forked
from nearfar.similarity.tiled.layout import Side
from nearfar.similarity.tiled.tile import BIG, Edge, Tile, Weights

LOG2_E = math.log2(math.e)
DEEPEST = {torch.float32: 110.0, torch.float64: 900.0}
"""Smallest power of two (negated) that a term may be: a normal number still."""
HIGHEST = {torch.float32: 90.0, torch.float64: 900.0}
"""Largest power of two that a term may be, so that sums of them stay finite."""


class SoftmaxStep:
    """log Σ e^z_ij (and Σ p_ij s_ij) with z = a (s - b), or a max(0, s - f) (s - b).

    Exponents are powers of two, exp2 being four times as fast as exp. Where all exponents of all pairs span
    few enough powers of two, one shift serves everyone; otherwise each row follows its own largest exponent.
    """

    fill = -torch.inf
    differentiable = True

    def __init__(
        self,
        reduction: LogSumExp | SoftMean,
        side: Side,
        bounds: tuple[float, float],
        like: Tensor,
        over_candidates: bool,
    ) -> None:
        self.over_candidates = over_candidates
        self.mean = isinstance(reduction, SoftMean)
        self.frozen = reduction.frozen
        self.slope = reduction.scale * LOG2_E
        self.shift = 0.0 if isinstance(reduction, SoftMean) else reduction.shift
        self.floor = None if isinstance(reduction, SoftMean) else reduction.floor
        low, high = self._range(*bounds)
        deepest, highest = DEEPEST[like.dtype], HIGHEST[like.dtype]
        # Exponents near 0 are the most exact: they are moved up only as far as their span asks for.
        top = high - max(0.0, high - low - deepest)
        self.top: Tensor | float = (
            read(torch.tensor(top + self.slope * self.shift, dtype=like.dtype)) - self.slope * self.shift
        )
        if high - low > deepest + highest:
            self.top = like.new_full((len(side),), -torch.inf)
        self.sums = like.new_zeros(len(side))
        self.weighted = like.new_zeros(len(side)) if self.mean else None
        self.starts: dict[float, Tensor] = {}
        self.coefficient: Tensor | None = None

    def visit(self, tile: Tile) -> bool:
        edges = edges_of(tile, self.over_candidates)
        if isinstance(self.top, float):
            e = self._exponents(tile, self.top).exp2_()
            for edge in edges:
                self._add(edge, edge.see(e))
        else:
            z = self._exponents(tile, 0.0)
            for edge in edges:
                self._add_shifted(edge, edge.see(z))
        return True

    def fork(self) -> "SoftmaxStep":
        return forked(self, "sums", "weighted", "top")

    def join(self, other: "SoftmaxStep") -> None:
        ours, theirs = 1.0, 1.0
        if isinstance(self.top, Tensor) and isinstance(other.top, Tensor):
            top = torch.maximum(self.top, other.top)
            finite = top.masked_fill(top == -torch.inf, 0.0)
            ours, theirs = torch.exp2(self.top - finite), torch.exp2(other.top - finite)
            self.top = top
        self.sums = self.sums * ours + other.sums * theirs
        if self.weighted is not None and other.weighted is not None:
            self.weighted = self.weighted * ours + other.weighted * theirs

    def result(self) -> Tensor:
        """Natural logarithm of the sum, or the mean; -inf and 0 for an empty row."""
        if self.weighted is not None:
            return self.weighted / self.sums.masked_fill(self.sums == 0, 1.0)
        top = self.top
        if isinstance(top, Tensor):
            top = top.double().masked_fill(self.sums == 0, 0.0)
        # In float64, since the two summands may be large and cancel.
        return ((self.sums.double().log2() + top) / LOG2_E).to(self.sums.dtype)

    def ahead(self) -> bool:
        return isinstance(self.top, float) and not self.mean

    def share(self) -> Tensor:
        assert self.coefficient is not None
        return self.coefficient

    def receive(self, gradient: Tensor | None) -> None:
        assert gradient is not None
        scale = 1.0 if self.mean else self.slope / LOG2_E
        empty = self.sums == 0
        self.coefficient = (gradient * scale / self.sums.masked_fill(empty, 1.0)).masked_fill(empty, 0.0)
        self.centre = None if self.weighted is None else self.result()

    def weigh(self, tile: Tile, weights: Weights) -> None:
        edges = edges_of(tile, self.over_candidates)
        inner = None if self.floor is None else self._inner(tile)
        if isinstance(self.top, float):
            e = self._exponents(tile, self.top).exp2_()
            if inner is not None:
                e.mul_(inner)
            if not self.mean or self.frozen:
                add_spread(weights, e, edges, self.coefficient)
                return
            terms = [edge.see(e) for edge in edges]
        else:
            terms = self._shifted(tile, edges, inner)
        for edge, e in zip(edges, terms, strict=True):
            each = edge.buffer("sum")
            torch.mul(e, self.share()[edge.rows, None], out=each)
            if edge.inside is not None:
                each.mul_(edge.inside)
            if self.centre is not None and not self.frozen:
                deviation = torch.sub(edge.s, self.centre[edge.rows, None], out=edge.buffer("deviation"))
                each.mul_(deviation.mul_(self.slope / LOG2_E).add_(1.0).clamp_(min=-BIG))
            weights.seen(edge).add_(each)

    def _shifted(self, tile: Tile, edges: list[Edge], inner: Tensor | None) -> Iterator[Tensor]:
        """2^(z - top) for each row's own top, one edge after the other."""
        z = self._exponents(tile, 0.0)
        for edge in edges:
            assert isinstance(self.top, Tensor)
            top = self.top[edge.rows, None].clamp_min(-BIG)
            e = torch.sub(edge.see(z), top, out=edge.buffer("each"))
            # Pairs outside the interval may lie far above the row's top: masked, they must stay finite.
            e.clamp_(max=1.0).exp2_()
            yield e if inner is None else e.mul_(edge.see(inner))

    def _exponents(self, tile: Tile, minus: float) -> Tensor:
        """z in powers of two, less ``minus``, in a buffer."""
        out = tile.buffer("values")
        if self.floor is None:
            start = self.starts.get(minus)
            if start is None:
                start = self.starts[minus] = tile.s.new_full((), -self.slope * self.shift - minus)
            torch.add(start, tile.s, alpha=self.slope, out=out)
        else:
            factor = torch.sub(tile.s, self.floor, out=tile.buffer("factor")).clamp_(min=0.0)
            torch.sub(tile.s, self.shift, out=out).mul_(self.slope).mul_(factor).sub_(minus)
        if tile.others is not None and (self.slope < 0 or self.floor is not None):
            out.view(-1).index_fill_(0, tile.others, -torch.inf)  # the fill, -inf, has lost its meaning
        return out

    def _inner(self, tile: Tile) -> Tensor:
        """dz/ds divided by a, where there is a floor."""
        assert self.floor is not None
        factor = torch.sub(tile.s, self.floor, out=tile.buffer("inner"))
        if self.frozen:
            return factor.clamp_(min=0.0)
        above = torch.gt(factor, 0.0, out=tile.buffer("above floor"))
        # d/ds (s - f)(s - b) = 2 s - f - b
        return factor.mul_(2.0).add_(self.floor - self.shift).mul_(above).nan_to_num_(0.0, 0.0, 0.0)

    def _add(self, edge: Edge, e: Tensor) -> None:
        add_rows(self.sums[edge.rows], edge, e)
        if self.weighted is not None:
            s = edge.s.clamp(min=-BIG)
            add_rows(self.weighted[edge.rows], edge, s.mul_(e))

    def _add_shifted(self, edge: Edge, z: Tensor) -> None:
        assert isinstance(self.top, Tensor)
        inside = edge.inside
        out = edge.buffer("each")
        seen = out.copy_(z)
        if inside is not None:
            seen.masked_fill_(inside == 0, -torch.inf)
        old = self.top[edge.rows]
        new = torch.maximum(old, seen.amax(1))
        finite = new.masked_fill(new == -torch.inf, 0.0)
        decay = torch.exp2(old - finite)
        e = seen.sub_(finite[:, None]).exp2_()
        self.sums[edge.rows] = self.sums[edge.rows] * decay + e.sum(1)
        if self.weighted is not None:
            s = edge.s.clamp(min=-BIG)
            self.weighted[edge.rows] = self.weighted[edge.rows] * decay + s.mul_(e).sum(1)
        self.top[edge.rows] = new

    def _range(self, low: float, high: float) -> tuple[float, float]:
        """Smallest and largest exponent, in powers of two, of similarities from low to high."""

        def z(s: float) -> float:
            factor = 1.0 if self.floor is None else max(0.0, s - self.floor)
            return self.slope * factor * (s - self.shift)

        at = [low, high]
        if self.floor is not None:
            at += [min(max(s, low), high) for s in (self.floor, (self.floor + self.shift) / 2)]
        values = [z(s) for s in at]
        return min(values), max(values)
