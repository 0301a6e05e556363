"""A few negatives of each anchor, drawn at random."""

import torch
from jaxtyping import Int
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.mining.counter import key_of, names_of, uniforms
from nearfar.mining.places import at_most, most_positives, places
from nearfar.mining.registry import register_rule
from nearfar.pairs import Pairs
from nearfar.similarity import Count, Sample


@register_rule(table=True)
def random(
    pairs: Pairs, *, keep_negatives: int = 1, keep_positives: int | None = None, seed: int | None = None
) -> Pairs:
    """Keep, for each anchor, k of its negatives drawn without replacement, and all or k of its positives.

    Every set of k is as likely as any other. The draws are a function of the key and of the anchor's id (its
    row, without ids) alone. The key of a call comes from torch's generator, which ``nearfar train`` seeds
    anew for every step, so that a resumed run draws the same.

    Args:
        keep_negatives: k (>= 1); an anchor that has fewer keeps them all.
        keep_positives: how many positives to draw (>= 1); None keeps them all.
        seed: a fixed key: the same draws at every call.

    Raises:
        NearfarError: if ``keep_negatives`` or ``keep_positives`` is less than 1.
    """
    if keep_negatives < 1 or (keep_positives is not None and keep_positives < 1):
        raise NearfarError(
            f"random draws 1 or more of each kind; got keep_negatives={keep_negatives}, "
            f"keep_positives={keep_positives}."
        )
    if keep_positives is not None:
        pairs = pairs.short(wait=False)
    key, names = key_of(seed), names_of(pairs)
    (count,) = pairs.stream(Count())
    rank = subsets(uniforms(key, names, at_most(pairs, keep_negatives)), count.long())
    # In the middle of its step, a draw of equal weights is exactly the negative of that rank.
    middle = (rank.clamp_min(0) + 0.5) / count.double().clamp_min(1)[:, None]
    (columns,) = pairs.stream(Sample(torch.zeros_like, middle))
    keep = None
    if keep_positives is not None:
        lot = uniforms(~key, names, most_positives(pairs))
        keep = places(pairs, lot[pairs.positives.anchor, places(pairs)]) < keep_positives
    return pairs.narrow(positives=keep, columns=columns.masked_fill(rank < 0, -1))


def subsets(uniform: Tensor, count: Int[Tensor, " row"]) -> Int[Tensor, "row k"]:
    """Draw k of the numbers 0 … count - 1 without replacement; all of them, and -1, where there are fewer.

    Args:
        uniform: k numbers in [0, 1) for each row.

    Reference:
        Bentley and Floyd, "A sample of brilliance", Communications of the ACM 30 (9), 1987.
    """
    k = uniform.shape[1]
    drawn = torch.full(uniform.shape, -1, dtype=torch.int64, device=uniform.device)
    for place in range(k):
        last = count - k + place
        pick = (uniform[:, place] * (last + 1)).long().clamp_max(last)
        taken = (drawn == pick[:, None]).any(1)
        drawn[:, place] = torch.where(taken, last, pick).masked_fill(last < 0, -1)
    return drawn
