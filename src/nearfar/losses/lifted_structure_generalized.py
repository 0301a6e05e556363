"""Generalised lifted structure loss: all positives of an anchor nearer than all its negatives, smoothly."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.limits import check_not_negative, check_positive
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.views import distances
from nearfar.pairs import Pairs
from nearfar.similarity import Count, LogSumExp, Measure
from nearfar.similarity.stable import full_precision


def _distances_or_products(embeddings: Tensor, similarity: Measure) -> tuple[Tensor, Measure]:
    """Compare by distance, of unit vectors for the cosine; a dot product stays one."""
    if similarity == "cosine":
        return distances(embeddings, similarity)
    return full_precision(embeddings), similarity


@register_loss(needs="positive", view=_distances_or_products, table=True)
def lifted_structure_generalized(
    pairs: Pairs,
    *,
    margin: float = 1.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    variant: Literal["hinge", "smooth"] = "hinge",
) -> Float[Tensor, " anchor"]:
    """Ask that the farthest positive, softly, be nearer than the nearest negative, softly.

    With s_ij the similarity (-D_ij for a distance), m the margin, P_i the positives and N_i the negatives of
    anchor i:

        L_i = max(0, 1/α log Σ_{j∈P_i} exp(-α s_ij) + 1/β log Σ_{j∈N_i} exp(β(s_ij + m)))          hinge
        L_i = 2/α log Σ_{j∈P_i} exp(-α s_ij) + 2/β log Σ_{j∈N_i} exp(β s_ij)                    smooth

    The cosine compares unit vectors by their Euclidean distance. The smooth variant is what public code calls
    lifted structure, with ``similarity="dot"``, α = 2 and β = 40; its value may be negative.

    Args:
        margin: m, in units of the similarity; the smooth variant has none.
        alpha: sharpness of the farthest positive (> 0); 1 in the paper.
        beta: sharpness of the nearest negative (> 0); 1 in the paper.
        variant: "hinge", the paper's, or "smooth", twice the gap without hinge or margin.

    Returns:
        One value per anchor; 0 for an anchor without positives or without negatives.

    Raises:
        NearfarError: if ``alpha`` or ``beta`` is not positive.

    Reference:
        Hermans et al., 2017, eq. 8. https://arxiv.org/abs/1703.07737
    """
    check_positive(alpha=alpha, beta=beta)
    check_not_negative(margin=margin)
    shift = -margin if variant == "hinge" else 0.0
    (nearest, negatives), (farthest,) = pairs.both(
        [LogSumExp(scale=beta, shift=shift), Count()], [LogSumExp(scale=-alpha)]
    )
    gap = farthest / alpha + nearest / beta
    if variant == "hinge":
        return gap.relu()
    return torch.where((pairs.positive_count > 0) & (negatives > 0), 2 * gap, 0.0)
