"""Triplet loss: a positive nearer than a negative, by a margin."""

from math import inf

from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.pairs import Pairs
from nearfar.similarity import Count, HingeSum, SoftplusSum


@register_loss(reduction="mean_active", mined="mean_terms", table=True)
def triplet(pairs: Pairs, *, margin: float = 0.2, soft: bool = False) -> Terms:
    """Ask that every positive be nearer than every negative, by a margin.

    With s_ij the similarity, m the margin, P_i the positives and N_i the negatives of anchor i:

        L_i = Σ_{p∈P_i} Σ_{n∈N_i} max(0, s_in - s_ip + m)
        L_i = Σ_{p∈P_i} Σ_{n∈N_i} log(1 + exp(s_in - s_ip + m))          soft

    With a Euclidean measure s is the negated distance, so a term is max(0, D_ip - D_in + m). The terms are
    the triplets; no list of them is ever made. Mining chooses among them: ``hard`` takes each anchor's
    farthest positive and nearest negative (Hermans' batch hard), ``semi_hard`` for each positive the nearest
    negative that is farther than it (FaceNet). All triplets are averaged over those that are not zero, mined
    triplets over all that were chosen.

    Args:
        margin: m (>= 0), in units of the similarity.
        soft: log(1 + e^x) instead of the hinge; every triplet stays active. Hermans' soft margin has m = 0.

    Returns:
        One term per triplet; 0 for an anchor without positives or without negatives.

    Raises:
        NearfarError: if ``margin`` is negative.

    Reference:
        Schroff et al., CVPR 2015, eq. 3. https://arxiv.org/abs/1503.03832
        Hermans et al., 2017, eq. 5 to 7. https://arxiv.org/abs/1703.07737
    """
    if margin < 0:
        raise NearfarError(f"margin must not be negative; got {margin}.")
    if pairs.chosen is None:
        return _of_all(pairs if pairs.is_short else pairs.as_list(), margin, soft)
    pairs = pairs.short(wait=False)
    limit = pairs.positives.similarity - margin
    total = pairs.per_anchor(pairs.stream(_term(limit, soft))[0], "sum")
    plain = pairs.plain

    def counted(few: Count) -> Tensor:
        return plain.per_anchor(plain.stream(few)[0], "sum")

    def count() -> Tensor:
        return counted(Count(per="positive"))

    def active() -> Tensor:
        return counted(Count(above=plain.positives.similarity - margin, per="positive"))

    return Terms.counted(total, count, count if soft else active)


def _term(limit: Tensor, soft: bool) -> HingeSum | SoftplusSum:
    return SoftplusSum(limit, per="positive") if soft else HingeSum(limit, per="positive")


def _of_all(pairs: Pairs, margin: float, soft: bool) -> Terms:
    """Add up all triplets, and count those that are not zero, in one pass over the negatives."""
    limit = pairs.positives.similarity - margin
    above = -inf if soft else limit.detach()
    total, active, negatives = pairs.stream(_term(limit, soft), Count(above=above, per="positive"), Count())
    positives = pairs.plain.positives
    return Terms.counted(
        pairs.per_anchor(total, "sum"),
        lambda: negatives * positives.count(len(negatives)),
        lambda: positives.reduce(active, "sum", len(negatives)),
    )
