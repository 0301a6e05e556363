"""Supervised contrastive loss: name each positive among all others."""

from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, Sum, softplus


@register_loss(needs="positive", table=True)
def supcon(pairs: Pairs, *, temperature: float = 0.1) -> Float[Tensor, " anchor"]:
    """Classify each positive against everything else in the batch, and average over the positives.

    With s_ij the similarity, τ the temperature, P_i the positives and N_i the negatives of anchor i:

        L_i = -1/|P_i| Σ_{p∈P_i} log( exp(s_ip/τ) / Σ_{j∈P_i∪N_i} exp(s_ij/τ) )

    This is the paper's L_out, without its constant factor τ / τ_base.

    Args:
        temperature: τ (> 0). Smaller: the nearest negatives decide more.

    Returns:
        One value per anchor, at least log |P_i|; 0 for an anchor without positives.

    Raises:
        NearfarError: if ``temperature`` is not positive.

    Reference:
        Khosla et al., NeurIPS 2020, eq. 2. https://arxiv.org/abs/2004.11362
    """
    check_positive(temperature=temperature)
    scale = 1 / temperature
    (negatives,), (positives, total) = pairs.both([LogSumExp(scale=scale)], [LogSumExp(scale=scale), Sum()])
    count = pairs.positive_count
    alone = count == 0
    # log Σ e^z over all as that over the positives and what negatives add: a small loss keeps its digits.
    positives = positives.masked_fill(alone, 0.0)
    each = softplus(negatives - positives) + (positives - total * (scale / count.clamp(min=1)))
    return each.masked_fill(alone, 0.0)
