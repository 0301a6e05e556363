"""Margin loss: positives within a learned distance, negatives beyond it."""

from typing import Literal

from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.limits import check_not_negative
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.losses.parts.views import distances
from nearfar.pairs import Pairs
from nearfar.similarity import Count, HingeSum


@register_loss(reduction="mean_active", learned=("beta",), per_class=True, view=distances, table=True)
def margin(
    pairs: Pairs,
    *,
    margin: float = 0.2,
    beta: float | Tensor = 1.2,
    nu: float = 0.0,
    per: Literal["pair", "triplet"] = "pair",
    count: Literal["both", "either"] = "both",
) -> Terms:
    """Ask that positives be nearer than a boundary and negatives farther, by a margin; learn the boundary.

    With D_ij the distance, m the margin, β_i the boundary, P_i the positives and N_i the negatives of i:

        L_i = Σ_{j∈P_i} [max(0, D_ij - β_i + m) + ν β_i] + Σ_{j∈N_i} max(0, β_i - D_ij + m)

    and the sum over i is divided by the number of terms that are not zero (those of ν aside), which is a
    constant for the gradient. The distance is that of unit vectors when the similarity is the cosine.

    The paper draws one negative for each positive pair: ``mining="distance_weighted"``. The terms are then
    those of the triplets drawn, a negative that is drawn twice counting twice. Without mining all pairs
    count, each once.

    Args:
        margin: m (>= 0), a distance.
        beta: β, where the boundary starts; one for all, or one for each class of ``classes=…``. It is
            learned (``loss.learned["beta"]``; the paper's code gives it its own, large learning rate)
            unless the loss is created with ``learn=False``.
        nu: ν (>= 0), what a far boundary costs, for each positive pair.
        per: "triplet" counts all triplets without listing them, so that each pair counts as often as it
            has partners, as in pytorch-metric-learning. A mined triplet is one either way.
        count: "both" counts the two terms of a triplet each for itself, as the authors' code. "either"
            counts the triplets with a term that is not zero; for parity with code whose count became a
            logical OR. It needs triplets.

    Returns:
        One term per pair; 0 for an anchor with nothing to compare.

    Raises:
        NearfarError: if ``margin`` or ``nu`` is negative, or ``count="either"`` meets pairs.

    Reference:
        Wu et al., ICCV 2017, section 4. https://arxiv.org/abs/1706.07567
    """
    if margin < 0 or nu < 0:
        raise NearfarError(f"margin and nu must not be negative; got margin={margin}, nu={nu}.")
    if not isinstance(beta, Tensor):
        check_not_negative(beta=beta)
    kept = pairs.positives
    if isinstance(beta, Tensor):
        beta = beta.to(kept.similarity)
    boundary = pairs.of_anchor(beta) if isinstance(beta, Tensor) and beta.ndim else beta
    pull = (margin - boundary - kept.similarity).relu()
    pulling = (pull > 0).to(pull)
    cost = nu * boundary
    drawn = pairs.chosen is not None and pairs.chosen.per == "positive"
    if drawn:
        far = -(boundary + margin)
        push, pushing, negatives = pairs.stream(
            HingeSum(far, per="positive"),
            Count(above=_detached(far), per="positive"),
            Count(per="positive"),
        )
    else:
        far = -(beta + margin)
        push, pushing, negatives = pairs.stream(HingeSum(far), Count(above=_detached(far)), Count())
        if per == "pair":
            if count == "either":
                raise NearfarError('count="either" counts triplets; set per="triplet" with it.')
            return Terms(
                total=pairs.per_anchor(pull + cost, "sum") + push,
                count=pairs.positive_count + negatives,
                active=pairs.per_anchor(pulling, "sum") + pushing,
            )
        push, pushing, negatives = (pairs.of_anchor(x) for x in (push, pushing, negatives))
    alone = pushing if count == "both" else pushing * (1 - pulling)
    return Terms(
        total=pairs.per_anchor(negatives * (pull + cost) + push, "sum"),
        count=pairs.per_anchor(negatives * (2 if count == "both" else 1), "sum"),
        active=pairs.per_anchor(negatives * pulling + alone, "sum"),
    )


def _detached(threshold: float | Tensor) -> float | Tensor:
    return threshold.detach() if isinstance(threshold, Tensor) else threshold
