"""The positives of each anchor in order: what rules that count among them need."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.pairs import Pairs
from nearfar.similarity import Count

MANY = 1024
"""Of negatives for each anchor, a number that is taken as it is."""


def counts(pairs: Pairs) -> Int[Tensor, " anchor"]:
    """Return how many positives each anchor has, as whole numbers."""
    return torch.bincount(pairs.positives.anchor, minlength=len(pairs))


def at_most(pairs: Pairs, k: int) -> int:
    """Return k, or the most negatives that an anchor has, where k is so many that it matters."""
    if k <= MANY:
        return k
    (count,) = pairs.stream(Count())
    return min(k, max(1, int(count.max()) if len(count) else 1))


def places(pairs: Pairs, values: Float[Tensor, " positive"] | None = None) -> Int[Tensor, " positive"]:
    """Return the place of each positive among its anchor's, counted from 0.

    Args:
        values: the smallest comes first, and of equals the first candidate; None counts as they are listed.
    """
    anchor, count = pairs.positives.anchor, counts(pairs)
    listed = torch.arange(len(anchor), device=anchor.device) - (count.cumsum(0) - count)[anchor]
    return (
        listed if values is None else torch.empty_like(listed).scatter_(0, ascending(pairs, values), listed)
    )


def ascending(pairs: Pairs, values: Float[Tensor, " positive"]) -> Int[Tensor, " positive"]:
    """List the positives ordered by anchor, then by value, then as they were."""
    order = values.argsort(stable=True)
    return order[pairs.positives.anchor[order].argsort(stable=True)]
