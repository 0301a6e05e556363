"""Multi-similarity loss: weigh each pair by itself and by its neighbours."""

from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, softplus


@register_loss(table=True)
def multi_similarity(
    pairs: Pairs, *, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5
) -> Float[Tensor, " anchor"]:
    """Pull positives above ``base`` and push negatives below it, the hardest most.

    With s_ij the similarity, P_i the positives and N_i the negatives of anchor i:

        L_i = 1/α log(1 + Σ_{j∈P_i} exp(-α(s_ij - λ))) + 1/β log(1 + Σ_{j∈N_i} exp(β(s_ij - λ)))

    Args:
        alpha: sharpness of the pull (> 0).
        beta: sharpness of the push (> 0). Larger: the nearest negative decides more.
        base: λ, the similarity in [-1, 1] that separates the two.

    Returns:
        One value per anchor; 0 for an anchor with no positive and no negative.

    Raises:
        NearfarError: if ``alpha`` or ``beta`` is not positive.

    Reference:
        Wang et al., CVPR 2019, eq. 10. https://arxiv.org/abs/1904.06627
    """
    check_positive(alpha=alpha, beta=beta)
    # log(1 + Σ e^x) = softplus(logsumexp x): stable, and 0 for an empty sum.
    (push,), (pull,) = pairs.both([LogSumExp(scale=beta, shift=base)], [LogSumExp(scale=-alpha, shift=base)])
    return softplus(pull) / alpha + softplus(push) / beta
