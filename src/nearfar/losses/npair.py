"""N-pair loss: name the positive among the negatives of all other classes."""

from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.square import squares_of_candidates
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, softplus


@register_loss(needs="positive", lengths="l2", table=True)
def npair(pairs: Pairs, *, l2: float = 0.0) -> Float[Tensor, " anchor"]:
    """Classify each positive against all negatives, and average over the positives.

    With s_ij the similarity, λ the weight of the norms, P_i the positives and N_i the negatives of anchor i:

        L_i = 1/|P_i| Σ_{p∈P_i} [ log(1 + Σ_{n∈N_i} exp(s_in - s_ip)) + λ/4 (|x_i|² + |x_p|²) ]

    The paper's form (N-pair-mc) is ``similarity="dot"`` on embeddings of any length, with λ = 0.002 in public
    code, one pair per class: the first of each as ``embeddings`` and the second as ``candidates``. A
    batch against itself uses every row as anchor. For unit vectors ``ntxent`` has the temperature they need.

    Args:
        l2: λ (>= 0), how much the embeddings' squared length costs; needs a similarity other than the cosine.

    Returns:
        One value per anchor; 0 for an anchor without positives.

    Raises:
        NearfarError: if ``l2`` is negative, or not 0 with the cosine.

    Reference:
        Sohn, NeurIPS 2016, eq. 6.
        https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective
    """
    if l2 < 0:
        raise NearfarError(f"l2 must not be negative; got {l2}.")
    if l2 > 0 and pairs.measure == "cosine":
        raise NearfarError(
            "l2 weighs the length of embeddings, which the cosine ignores; use similarity='dot'."
        )
    (negatives,) = pairs.stream(LogSumExp(scale=1.0))
    each = softplus(pairs.of_anchor(negatives) - pairs.positives.similarity)
    if l2 > 0:
        ours = pairs.block.anchors.square().sum(1)
        each = each + l2 / 4 * (pairs.of_anchor(ours) + squares_of_candidates(pairs))
    return pairs.per_anchor(each, "sum") / pairs.positive_count.clamp_min(1)
