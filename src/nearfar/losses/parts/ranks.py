"""Where the positives of an anchor stand among themselves: few against few, so that nothing streams."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.pairs import Pairs
from nearfar.positive_table import PositiveTable
from nearfar.similarity.threads import in_turn, plainly

ELEMENTS = 2**18
"""Differences of two positives that are in memory at once; more leave the cache of a core."""


def positives_above(pairs: Pairs, temperature: float) -> Float[Tensor, " positive"]:
    """Σ σ((s_iq - s_ip) / τ) over the other positives q of the anchor, for each positive pair (i, p).

    Anchors with equally many positives are taken together, those of a table all, some at a time. Where all
    are more than ``ELEMENTS``, the backward pass computes the differences again, and there is no double
    backward.
    """
    kept, s = pairs.positives, pairs.positives.similarity
    if isinstance(kept, PositiveTable):
        # Where there is no pair there is a similarity so low that no step counts it.
        s = torch.where(kept.there, s, s.detach().amin() - 1000 * temperature)
        return _above_each(s.flatten(), _parts([s.shape[1]], [s.numel()]), temperature).view(s.shape)
    count = torch.bincount(kept.anchor, minlength=len(pairs))[kept.anchor]
    order = torch.argsort(count, stable=True)
    sizes, numbers = torch.unique_consecutive(count[order], return_counts=True)
    sums = _above_each(s[order], _parts(sizes.tolist(), numbers.tolist()), temperature)
    return torch.empty_like(s).index_copy(0, order, sums)


def positives_at_least(pairs: Pairs) -> Float[Tensor, " positive"]:
    """How many other positives q of the anchor have s_iq >= s_ip, for each positive pair (i, p)."""
    kept, s = pairs.positives, pairs.positives.similarity.detach()
    if isinstance(kept, PositiveTable):
        s = s.masked_fill(kept.absent, -torch.inf)
        below = torch.searchsorted(s.sort(1).values, s)
        return (s.shape[1] - 1 - below).to(s.dtype)
    anchor = kept.anchor
    order = torch.argsort(s, descending=True, stable=True)
    order = order[torch.argsort(anchor[order], stable=True)]
    value, owner = s[order], anchor[order]
    place = torch.arange(len(s), device=s.device)
    last = torch.ones_like(place, dtype=torch.bool)
    last[:-1] = (owner[1:] != owner[:-1]) | (value[1:] != value[:-1])
    end = torch.where(last, place, len(s)).flip(0).cummin(0).values.flip(0)
    number = end - torch.searchsorted(owner, owner)
    return torch.empty_like(s).index_copy(0, order, number.to(s.dtype))


def own_similarity(pairs: Pairs) -> Float[Tensor, " anchor"]:
    """The similarity of each anchor with itself."""
    x = pairs.block.anchors
    square = x.square().sum(1)
    return square if pairs.measure in ("cosine", "dot") else 0 * square


@dataclass(frozen=True)
class _Part:
    """Anchors with ``size`` positives each, and which of these are compared with all of them.

    Attributes:
        rows: where the positives of these anchors lie in the sorted list.
    """

    rows: slice
    size: int
    some: slice


def _parts(sizes: list[int], numbers: list[int]) -> list[_Part]:
    """Cut a list of positives, sorted by how many their anchors have, into parts of at most ``ELEMENTS``.

    Args:
        sizes: how many an anchor may have.
        numbers: how many positives there are whose anchors have so many.
    """
    parts, start = [], 0
    for size, number in zip(sizes, numbers, strict=True):
        step = size * max(1, ELEMENTS // size**2)
        wide = max(1, ELEMENTS // size)  # less than ``size`` only where an anchor is alone
        for first in range(start, start + number, step):
            rows = slice(first, min(first + step, start + number))
            parts += [_Part(rows, size, slice(a, min(a + wide, size))) for a in range(0, size, wide)]
        start += number
    return parts


def _above_each(s: Tensor, parts: list[_Part], temperature: float) -> Tensor:
    if (
        sum((part.rows.stop - part.rows.start) * (part.some.stop - part.some.start) for part in parts)
        <= ELEMENTS
    ):
        rows = [s[part.rows].view(-1, part.size) for part in parts]
        return torch.cat([s[:0], *(_above(x, temperature).view(-1) for x in rows)])
    return _Above.apply(s, parts, temperature)  # pyrefly: ignore


def _above(s: Tensor, temperature: float) -> Tensor:
    """Σ_q σ((s_q - s_p) / τ) of each row, less σ(0), its own."""
    return ((s[:, None, :] - s[:, :, None]) / temperature).sigmoid().sum(2) - 0.5


class _Above(torch.autograd.Function):
    """The same for many parts, one after the other."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, parts: list[_Part], temperature: float) -> Tensor:
        ctx.save_for_backward(s)
        ctx.parts, ctx.temperature = parts, temperature
        sums = torch.empty_like(s)

        def work(index: int) -> None:
            part = parts[index]
            rows = s[part.rows].view(-1, part.size)
            sums[part.rows].view(-1, part.size)[:, part.some] = (
                _steps(rows, part.some, temperature).sum(2).sub_(0.5)
            )

        with torch.no_grad():
            in_turn(work, _keys(parts))
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    @plainly()
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (gradient,), (s,) = grad_outputs, ctx.saved_tensors
        parts, temperature = ctx.parts, ctx.temperature
        ds = torch.zeros_like(s)

        def work(index: int) -> None:
            part = parts[index]
            rows = s[part.rows].view(-1, part.size)
            p = _steps(rows, part.some, temperature)
            p.addcmul_(p, p, value=-1.0).mul_(gradient[part.rows].view(-1, part.size)[:, part.some, None])
            here = ds[part.rows].view(-1, part.size)
            here += p.sum(1) / temperature
            here[:, part.some] -= p.sum(2) / temperature

        in_turn(work, _keys(parts))
        return ds, None, None


def _steps(s: Tensor, some: slice, temperature: float) -> Tensor:
    """σ((s_q - s_p) / τ) of each row, [row, p, q], for some p."""
    return (s[:, None, :] - s[:, some, None]).div_(temperature).sigmoid_()


def _keys(parts: list[_Part]) -> list[tuple[int, ...]]:
    """What each part changes: the positives of its anchors."""
    return [(part.rows.start,) for part in parts]
