"""Lifted structure loss: each positive pair against all negatives of both its ends."""

import torch

from nearfar.losses.parts.both_sides import near_both_ends
from nearfar.losses.parts.limits import check_not_negative
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.losses.parts.views import distances
from nearfar.pairs import Pairs


@register_loss(reduction="mean_terms", needs="positive", view=distances, separable=False, table=True)
def lifted_structure(pairs: Pairs, *, margin: float = 1.0) -> Terms:
    """Ask that a positive pair be nearer than the negatives of both its ends are to them, by a margin.

    With D_ij the Euclidean distance, m the margin, P_i the positives and N_i the negatives of row i:

        L_i = Σ_{j∈P_i} ½ max(0, J_ij)²
        J_ij = log( Σ_{k∈N_i} exp(m - D_ik) + Σ_{k∈N_j} exp(m - D_jk) ) + D_ij

    Each row's sum is taken once and serves all its pairs. The paper compares embeddings as they come
    (``similarity="euclidean"``); the cosine compares unit vectors by their distance. Against candidates, N_j
    is the anchors that j is a negative of. The terms are the positive pairs.

    Args:
        margin: m (>= 0), a distance.

    Returns:
        One term per positive pair; 0 for a pair without negatives.

    Raises:
        NearfarError: if ``margin`` is negative, or a rule has chosen a few negatives for each anchor, and
            candidates are given.

    Reference:
        Song et al., CVPR 2016, eq. 4. https://arxiv.org/abs/1511.06452
    """
    check_not_negative(margin=margin)
    near_anchor, near_candidate = near_both_ends(pairs, shift=-margin)
    z_i = pairs.of_anchor(near_anchor)
    z_j = pairs.of_candidate(near_candidate)
    alone = (z_i == -torch.inf) & (z_j == -torch.inf)
    both = torch.logaddexp(z_i.masked_fill(alone, 0.0), z_j.masked_fill(alone, 0.0))
    violation = (both - pairs.positives.similarity).relu().masked_fill(alone, 0.0)
    return Terms(
        total=pairs.per_anchor(violation.square() / 2, "sum"),
        count=pairs.positive_count,
        active=pairs.per_anchor((violation > 0).to(violation), "sum"),
    )
