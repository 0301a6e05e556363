"""SigLIP loss: every pair by itself, yes or no."""

from torch import Tensor

from nearfar.losses.parts.learned_scale import exponential
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.pairs import Pairs
from nearfar.similarity import Count, Negated, SoftplusSum


@register_loss(learned=("log_scale", "bias"), table=True)
def siglip(pairs: Pairs, *, log_scale: float | Tensor = 2.302585, bias: float | Tensor = -10.0) -> Terms:
    """Tell positives from negatives, one pair at a time, with a learned scale and bias.

    With z_ij = exp(t) s_ij + b, P_i the positives and N_i the negatives of anchor i:

        L_i = Σ_{j∈P_i} log(1 + exp(-z_ij)) + Σ_{j∈N_i} log(1 + exp(z_ij))

    With images as ``embeddings``, their texts as ``candidates`` and a number for each pair as both labels
    this is the paper's loss. The scale is learned as its logarithm t = ``loss.learned["log_scale"]``, and the
    bias as ``loss.learned["bias"]``; give the optimiser ``loss.parameters()``. The terms are the pairs, and
    the average is over anchors.

    Args:
        log_scale: t where learning starts, or always with ``learn=False``; default log 10.
        bias: b where learning starts. Far below 0, since most pairs are negatives.

    Returns:
        One term per pair; 0 for an anchor with nothing to compare.

    Reference:
        Zhai et al., ICCV 2023, algorithm 1. https://arxiv.org/abs/2303.15343
    """
    scale = exponential(log_scale)
    scaled = pairs.scaled(scale)
    threshold = scaled.positives.similarity.new_zeros(len(scaled)) - bias
    (push, negatives), (pull,) = scaled.both(
        [SoftplusSum(threshold), Count()], [Negated(SoftplusSum(-threshold))]
    )
    count = scaled.positive_count + negatives
    return Terms(total=pull + push, count=count, active=count)
