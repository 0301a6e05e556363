"""Binomial deviance: every pair on its side of one similarity, softly."""

from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import Count, SoftplusSum, softplus


@register_loss(table=True)
def binomial_deviance(
    pairs: Pairs,
    *,
    alpha: float = 2.0,
    beta: float = 40.0,
    base: float = 0.5,
    positive_weight: float = 1.0,
    negative_weight: float = 1.0,
) -> Float[Tensor, " anchor"]:
    """Pull each positive above ``base`` and push each negative below it.

    With s_ij the similarity, P_i the positives and N_i the negatives of anchor i:

        L_i = w⁺/|P_i| Σ_{j∈P_i} log(1 + exp(-α(s_ij - λ))) + w⁻/|N_i| Σ_{j∈N_i} log(1 + exp(β(s_ij - λ)))

    The paper writes β = αC with C the cost of a negative. A half without pairs is 0. Public code with mining
    has slopes that do not grow with the sharpness: w⁺ = 2/α, w⁻ = 2/β and ``mining="multi_similarity"``.

    Args:
        alpha: sharpness of the pull (> 0).
        beta: sharpness of the push (> 0). Larger: nearer negatives decide more.
        base: λ, the similarity that separates the two.
        positive_weight: w⁺ (>= 0).
        negative_weight: w⁻ (>= 0).

    Returns:
        One value per anchor; 0 for an anchor with no positive and no negative.

    Raises:
        NearfarError: if ``alpha`` or ``beta`` is not positive, or a weight is negative.

    Reference:
        Yi et al., ICPR 2014. https://arxiv.org/abs/1407.4979
    """
    check_positive(alpha=alpha, beta=beta)
    if positive_weight < 0 or negative_weight < 0:
        raise NearfarError(
            f"weights must not be negative; got positive_weight={positive_weight}, "
            f"negative_weight={negative_weight}."
        )
    push, negatives = pairs.stream(SoftplusSum(base, scale=beta), Count())
    pull = pairs.per_anchor(softplus(-alpha * (pairs.positives.similarity - base)), "sum")
    return positive_weight * pull / pairs.positive_count.clamp_min(
        1
    ) + negative_weight * beta * push / negatives.clamp_min(1)
