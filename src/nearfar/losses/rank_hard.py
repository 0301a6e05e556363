"""Rank hard: the nearest violators of a positive pair, pushed away from both of its ends."""

from nearfar.errors import NearfarError
from nearfar.losses.parts.chosen import from_anchor, from_positive, named_negatives
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.mining.places import at_most
from nearfar.pairs import Pairs
from nearfar.similarity import TopK
from nearfar.similarity.stable import taken


@register_loss(reduction="mean_terms", table="short")
def rank_hard(pairs: Pairs, *, margin: float = 0.5, negatives: int = 1) -> Terms:
    """Ask that a positive pair be nearer than the anchor's hardest negatives are to either end of it.

    With s_ij the similarity, m the margin, and H_ip the k most similar of the anchor's negatives that
    violate the margin, { j∈N_i : s_ij > s_ip - m } (fewer where there are fewer):

        L_i = Σ_{p∈P_i} Σ_{j∈H_ip} [max(0, s_ij - s_ip + m) + max(0, s_pj - s_ip + m)]

    The negatives are chosen by the anchor alone, and each is used with the positive as anchor too. The mean
    is over slots, 2 k for each positive pair, filled or not: few violators make a small loss. Where mining
    has named negatives, those of them that violate the margin are taken, however many, and k only counts
    slots.

    Args:
        margin: m (>= 0), in units of the similarity.
        negatives: k (>= 1), how many negatives a positive pair is compared with at most.

    Returns:
        Two terms for each negative taken; 0 for an anchor without positives or without violators.

    Raises:
        NearfarError: if ``margin`` is negative or ``negatives`` is less than 1.

    Reference:
        Wang & Gupta, ICCV 2015, and its public Caffe layer. https://arxiv.org/abs/1505.00687
    """
    if margin < 0 or negatives < 1:
        raise NearfarError(
            f"margin must not be negative and negatives at least 1; got {margin} and {negatives}."
        )
    columns = named_negatives(pairs)
    if columns is None:
        # The k nearest violators are the violators among the k nearest.
        (nearest,) = pairs.stream(TopK(at_most(pairs, negatives)))
        columns = taken(nearest, pairs.positives.anchor)
    limit = (pairs.positives.similarity - margin)[..., None]
    from_one, from_other = from_anchor(pairs, columns) - limit, from_positive(pairs, columns) - limit
    violates = (columns >= 0) & (from_one > 0)
    hinge = (from_one.relu() + from_other.relu()) * violates
    active = (violates.to(hinge) + (violates & (from_other > 0)).to(hinge)).sum(-1)
    return Terms(
        total=pairs.per_anchor(hinge.sum(-1), "sum"),
        count=2 * negatives * pairs.positive_count,
        active=pairs.per_anchor(active, "sum"),
    )
