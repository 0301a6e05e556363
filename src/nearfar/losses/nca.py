"""Neighbourhood components analysis: the chance that a random neighbour is of the anchor's class."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.registry import register_loss
from nearfar.mining.places import places
from nearfar.pairs import Pairs
from nearfar.similarity import Count, LogSumExp, OrderStatistic, softplus


@register_loss(needs="positive", table=True)
def nca(
    pairs: Pairs, *, temperature: float = 1 / 16, neighbours: int | None = None, inverted: bool = False
) -> Float[Tensor, " anchor"]:
    """Raise the share of the positives in a softmax over all that an anchor is compared with.

    With s_ij the similarity, τ the temperature, P_i the positives and N_i the negatives of anchor i:

        L_i = -log( Σ_{j∈P_i} exp(s_ij/τ) / Σ_{j∈P_i∪N_i} exp(s_ij/τ) )

    Goldberger et al. have ``similarity="squared_euclidean"`` and τ = 1. With k neighbours, P_i and N_i are
    what lies among the anchor's k nearest; where no positive does, P_i is the nearest one.

    Args:
        temperature: τ (> 0). Smaller: fewer neighbours decide.
        neighbours: k (>= 1), or None for all. Ties with the one after the k-th are left out.
        inverted: put -s_ij for s_ij throughout, as public code written for distances does with similarities:
            it learns the opposite. For comparing numbers only.

    Returns:
        One value per anchor; 0 for an anchor without positives.

    Raises:
        NearfarError: if ``temperature`` or ``neighbours`` is not positive.

    Reference:
        Goldberger et al., NeurIPS 2004, section 2.
        https://papers.nips.cc/paper/2566-neighbourhood-components-analysis
    """
    check_positive(temperature=temperature)
    if neighbours is not None and neighbours < 1:
        raise NearfarError(f"neighbours must be at least 1; got {neighbours}.")
    scale = (-1 if inverted else 1) / temperature
    keep = None
    if neighbours is not None:
        pairs, keep = _nearest(pairs.short(), neighbours, inverted)
    (negatives,) = pairs.stream(LogSumExp(scale=scale))
    logit = scale * pairs.positives.similarity
    if keep is not None:
        logit = logit.masked_fill(~keep, -torch.inf)
    positives = pairs.per_anchor(logit, "logsumexp")
    some = pairs.positive_count > 0
    return torch.where(some, softplus(negatives - positives.masked_fill(~some, 0.0)), 0.0)


def _nearest(pairs: Pairs, k: int, inverted: bool) -> tuple[Pairs, Bool[Tensor, "*positive"]]:
    """Keep what is nearer than the (k+1)-th nearest of each anchor (farther, inverted), or one positive.

    Returns:
        The pairs with those negatives, and which of their positives to keep.
    """
    sign = -1 if inverted else 1
    s = pairs.positives.similarity.detach()
    above, negatives = pairs.stream(Count(above=s, per="positive"), Count())
    place = places(pairs, -sign * s)
    before = place + (pairs.of_anchor(negatives) - above if inverted else above)
    # Of the r nearest of all kinds, the positives that have fewer than r before them; the rest negatives.
    wanted = [r - pairs.per_anchor((before < r).to(s), "sum") for r in (k, k + 1)]
    ranks = [(negatives - w + 1 if inverted else w).long() for w in wanted]
    found = pairs.stream(*(OrderStatistic(rank) for rank in ranks))
    # Where positives fill all places, no negative is the r-th; where there are too few, everything is kept.
    last, beyond = (
        torch.minimum(
            (sign * value).masked_fill(w < 1, torch.inf).masked_fill(w > negatives, -torch.inf),
            pairs.per_anchor(torch.where(before < r, sign * s, torch.inf), "min"),
        )
        for r, w, value in zip((k, k + 1), wanted, found, strict=True)
    )
    # Halfway between the two, rounding decides nothing.
    limit = (last + beyond) / 2
    keep = sign * s > pairs.of_anchor(limit)
    lone = pairs.per_anchor(keep.to(s), "sum") == 0
    keep = keep | ((place == 0) & pairs.of_anchor(lone))
    return pairs.narrow(below=-limit) if inverted else pairs.narrow(above=limit), keep
