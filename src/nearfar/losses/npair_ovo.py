"""N-pair loss, one against one: each positive against each negative by itself."""

from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import SoftplusSum


@register_loss(needs="positive", table="short")
def npair_ovo(pairs: Pairs) -> Float[Tensor, " anchor"]:
    """Ask that every positive be nearer than every negative, softly, and average over the positives.

    With s_ij the similarity, P_i the positives and N_i the negatives of anchor i:

        L_i = 1/|P_i| Σ_{p∈P_i} Σ_{n∈N_i} log(1 + exp(s_in - s_ip))

    It sums over the negatives where ``npair`` takes them together in one logarithm. The paper's form is
    ``similarity="dot"`` with one pair per class; see ``npair``.

    Returns:
        One value per anchor; 0 for an anchor without positives or without negatives.

    Reference:
        Sohn, NeurIPS 2016, eq. 7.
        https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective
    """
    (each,) = pairs.stream(SoftplusSum(pairs.positives.similarity, per="positive"))
    return pairs.per_anchor(each, "sum") / pairs.positive_count.clamp_min(1)
