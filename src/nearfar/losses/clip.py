"""CLIP loss: name the candidate from the anchor and the anchor from the candidate."""

from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.both_sides import near_both_ends
from nearfar.losses.parts.learned_scale import exponential
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import softplus


@register_loss(needs="positive", learned=("log_scale",), separable=False, table=True)
def clip(pairs: Pairs, *, log_scale: float | Tensor = 2.65926) -> Float[Tensor, " anchor"]:
    """Classify each positive pair among its row and among its column, at a learned temperature.

    With z_ij = exp(t) s_ij, P_i the positives and N_i the negatives of anchor i, and N'_j the anchors that
    candidate j is a negative of:

        L_i = 1/|P_i| Σ_{j∈P_i} ½ (r_ij + c_ij)
        r_ij = log(1 + Σ_{n∈N_i} exp(z_in - z_ij)),   c_ij = log(1 + Σ_{a∈N'_j} exp(z_aj - z_ij))

    With images as ``embeddings``, their texts as ``candidates`` and a number for each pair as both labels
    this is the paper's symmetric cross-entropy. Other positives of a row or column are left out of its sum.

    The scale is learned as its logarithm t = ``loss.learned["log_scale"]``; give the optimiser
    ``loss.parameters()``. The paper keeps it from exceeding 100 after each step; this loss does not.

    Args:
        log_scale: t where learning starts, or always with ``learn=False``; default log(1/0.07).

    Returns:
        One value per anchor; 0 for an anchor without positives.

    Raises:
        NearfarError: if a rule has chosen a few negatives for each anchor, and candidates are given.

    Reference:
        Radford et al., ICML 2021, figure 3. https://arxiv.org/abs/2103.00020
    """
    scale = exponential(log_scale)
    scaled = pairs.scaled(scale)
    row, column = near_both_ends(scaled)
    z = scaled.positives.similarity
    to_column = softplus(scaled.of_anchor(row) - z)
    each = to_column + softplus(scaled.of_candidate(column) - z)
    return scaled.per_anchor(each, "sum") / (2 * scaled.positive_count.clamp_min(1))
