"""Retrieval@k of the N-pair layer, and what its exponentials in single precision leave."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nearfar.mining.rounding import slack
from nearfar.pairs import Pairs
from nearfar.similarity import Count, Max

# exp(z) in single precision: below the first it loses digits, below the second (2^-150) it is 0.
SUBNORMAL, ZERO = -87.3, -103.972


def hits(
    pairs: Pairs, depths: Sequence[int], parity: bool, highest: Float[Tensor, " anchor"] | None = None
) -> list[Float[Tensor, ""]]:
    """Return for each k the share of anchors with a positive among their k most similar candidates.

    With b_i the largest similarity to a positive, anchor i is a hit when

        default   |{ j∈N_i : s_ij >= b_i }| < k
        parity    |{ j∈N_i∪P_i : s_ij >= b_i }| <= min(k, others - 1)

    so ties count against the anchor, in parity those among its positives too; and where there are no more
    than k others, the last of them is no hit. The original compares exp(s_ij - max s_i) in single precision,
    where everything far below the largest is equal.

    Args:
        pairs: before mining, without gradient.
        depths: the k.
        highest: each anchor's largest similarity, where that can be far above others; for parity.
    """
    positive, anchor = pairs.positives.similarity, pairs.positives.anchor
    best = pairs.per_anchor(positive, "max")
    some = best > -torch.inf
    if highest is not None:
        best, some = _equal_when_raised(best, highest, some)
    # Equal up to rounding, as a backend may compute one product in two ways.
    bound = (best - slack(pairs)).masked_fill(~some, torch.inf)
    (rivals,) = pairs.stream(Count(above=bound))
    if not parity:
        return [_share(some & (rivals < k), best) for k in depths]
    rivals = rivals + pairs.per_anchor((positive > bound[anchor]).to(positive), "sum")
    others = len(pairs.block.candidates) - 1
    return [_share(some & (rivals <= min(k, others - 1)), best) for k in depths]


def overflowing(pairs: Pairs) -> Float[Tensor, " anchor"] | None:
    """Return each anchor's largest similarity, or None where none can lie far below it.

    Vectors of unit length never do; those of length 7 may.
    """
    block = pairs.block
    if not (len(block.anchors) and len(block.candidates)):
        return None
    widest = 2 * block.anchors.norm(dim=1).max() * block.candidates.norm(dim=1).max()
    if widest <= -SUBNORMAL:
        return None
    (nearest,) = pairs.stream(Max())
    return torch.maximum(nearest, pairs.per_anchor(pairs.positives.similarity, "max"))


def shown_to_the_layer(pairs: Pairs, highest: Float[Tensor, " anchor"]) -> Pairs:
    """Leave out the pairs whose exp(s_ij - max s_i) is 0 in single precision, as the layer's sums do."""
    limit = highest + ZERO
    s, anchor = pairs.positives.similarity.detach(), pairs.positives.anchor
    return pairs.narrow(positives=s > limit[anchor], above=limit)


def _share(hit: Bool[Tensor, " anchor"], like: Tensor) -> Float[Tensor, ""]:
    return hit.to(like).sum() / max(1, len(hit))


def _equal_when_raised(best: Tensor, highest: Tensor, some: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest similarity whose exponential equals that of ``best``, and where it is not 0."""
    e = (best - highest).masked_fill(~some, 0.0).float().exp()
    halfway = (e.double() + torch.nextafter(e, torch.zeros_like(e)).double()) / 2
    lowest = highest.double() + halfway.log()
    return torch.minimum(best, lowest.to(best)), some & (e > 0)
