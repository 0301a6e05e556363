"""Smooth average precision: the ranks of the positives, counted by sigmoids."""

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.ranks import own_similarity, positives_above
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import SigmoidSum


@register_loss(reduction="mean_valid", needs="positive", table="short")
def smooth_ap(
    pairs: Pairs, *, temperature: float = 0.01, with_self: bool = False
) -> Float[Tensor, " anchor"]:
    """Raise the average precision of each anchor's ranking, a soft step standing for each comparison.

    With s_ij the similarity, τ the temperature, P_i the positives and N_i the negatives of anchor i:

        r_ip = 1 + Σ_{q∈P_i, q≠p} σ((s_iq - s_ip) / τ),   n_ip = Σ_{j∈N_i} σ((s_ij - s_ip) / τ)
        L_i = 1 - AP_i = 1 - 1/|P_i| Σ_{p∈P_i} r_ip / (r_ip + n_ip)

    Classes may be of any size. Every positive is compared with every negative of its anchor: that work is
    inherent, but none of it is stored. Positives among themselves are taken some anchors at a time.

    Args:
        temperature: τ (> 0), in units of the similarity. Smaller: nearer to the true average precision, and
            gradient for fewer pairs.
        with_self: count the anchor as the first of its own positives, as the authors' code does.

    Returns:
        One value per anchor; 0 for an anchor without positives. The mean is over anchors that have one.

    Raises:
        NearfarError: if ``temperature`` is not positive.

    Reference:
        Brown et al., ECCV 2020. https://arxiv.org/abs/2007.12163
    """
    check_positive(temperature=temperature)
    s = pairs.positives.similarity
    rank = 1 + positives_above(pairs, temperature)
    ranked_negatives = SigmoidSum(s, 1 / temperature, per="positive")
    if not with_self:
        (negatives,) = pairs.stream(ranked_negatives)
        # 1 - r / (r + n) as n / (r + n): a loss near 0 keeps its digits.
        lost = pairs.per_anchor(negatives / (rank + negatives), "sum")
        return lost / pairs.positive_count.clamp_min(1)
    own = own_similarity(pairs)
    negatives, nearer = pairs.stream(ranked_negatives, SigmoidSum(own, 1 / temperature))
    ahead = torch.sigmoid((pairs.of_anchor(own) - s) / temperature)
    lost = pairs.per_anchor(negatives / (rank + ahead + negatives), "sum")
    first = 1 + pairs.per_anchor(1 - ahead, "sum")
    lost = lost + nearer / (first + nearer)
    return torch.where(pairs.positive_count > 0, lost / (pairs.positive_count + 1), 0.0)
