"""The positives of each anchor in order: what rules that count among them need."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nearfar.pairs import Pairs
from nearfar.positive_table import PositiveTable
from nearfar.similarity import Count
from nearfar.similarity.stable import read

MANY = 1024
"""Of negatives for each anchor, a number that is taken as it is."""


def counts(pairs: Pairs) -> Int[Tensor, " anchor"]:
    """Return how many positives each anchor has, as whole numbers."""
    if isinstance(pairs.positives, PositiveTable):
        return pairs.positives.there.sum(1)
    return torch.bincount(pairs.positives.anchor, minlength=len(pairs))


def at_most(pairs: Pairs, k: int) -> int:
    """Return k, or the most negatives that an anchor has, where k is so many that it matters."""
    if k <= MANY:
        return k
    (count,) = pairs.stream(Count())
    return min(k, max(1, largest(count)))


def most_positives(pairs: Pairs) -> int:
    """Return how many positives an anchor has at most; those that a table has room for."""
    kept = pairs.positives
    return kept.there.shape[1] if isinstance(kept, PositiveTable) else largest(counts(pairs))


def largest(count: Shaped[Tensor, " anchor"]) -> int:
    """Return the largest of some counts, 0 of none; a device other than the CPU is waited for."""
    return int(read(count.max())) if len(count) else 0


def places(pairs: Pairs, values: Float[Tensor, "*positive"] | None = None) -> Int[Tensor, "*positive"]:
    """Return the place of each positive among its anchor's, counted from 0.

    Args:
        values: the smallest comes first, and of equals the first candidate; None counts as they are listed.
    """
    kept = pairs.positives
    if isinstance(kept, PositiveTable):
        if values is None:
            return (kept.there.cumsum(1) - 1).clamp_(min=0)
        order = values.masked_fill(kept.absent, torch.inf).argsort(dim=1, stable=True)
        place = torch.arange(order.shape[1], device=order.device).expand_as(order)
        return torch.empty_like(order).scatter_(1, order, place)
    anchor, count = pairs.positives.anchor, counts(pairs)
    listed = torch.arange(len(anchor), device=anchor.device) - (count.cumsum(0) - count)[anchor]
    return (
        listed if values is None else torch.empty_like(listed).scatter_(0, ascending(pairs, values), listed)
    )


def ascending(pairs: Pairs, values: Float[Tensor, " positive"]) -> Int[Tensor, " positive"]:
    """List the positives ordered by anchor, then by value, then as they were."""
    order = values.argsort(stable=True)
    return order[pairs.positives.anchor[order].argsort(stable=True)]
