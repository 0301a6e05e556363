"""Histogram loss: how likely a negative pair is more similar than a positive one."""

import torch

from nearfar.losses.parts.bins import negatives_up_to, of_positives
from nearfar.losses.parts.limits import check_bins
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.losses.parts.views import cosine
from nearfar.pairs import Pairs
from nearfar.similarity import Count


@register_loss(reduction="mean_terms", view=cosine, separable=False, table="short_at_once")
def histogram(pairs: Pairs, *, bins: int = 100) -> Terms:
    """Pull apart the histograms of positive and of negative similarities, over all pairs of the batch.

    With t_r = -1 + rΔ and Δ = 2/R, r = 0, …, R, P and N all positive and all negative pairs:

        h⁺_r = 1/|P| Σ_{(i,j)∈P} max(0, 1 - |s_ij - t_r| / Δ),   h⁻_r the same over N
        L = Σ_r h⁻_r Σ_{q<=r} h⁺_q

    about the probability that a random negative pair is more similar than a random positive one. The terms
    are the negative pairs, each with the share of positives below it, and their mean is L:

        L_i = Σ_{j∈N_i} Σ_r max(0, 1 - |s_ij - t_r| / Δ) Σ_{q<=r} h⁺_q

    The loss is about cosines whatever ``similarity`` says. Negatives stream as one hinge for each bin, and
    memory grows with anchors x bins. All positive pairs are listed: this loss cannot be taken some anchors
    at a time, since every negative is held against the positives of all anchors.

    Args:
        bins: R (>= 1). The paper's results hardly depend on it.

    Returns:
        One term per negative pair; 0 for an anchor without negatives, and for a batch without positives.

    Raises:
        NearfarError: if ``bins`` is less than 1.

    Reference:
        Ustinova & Lempitsky, NeurIPS 2016. https://arxiv.org/abs/1611.00822
    """
    check_bins(bins)
    positives = of_positives(pairs, bins).sum(0) / pairs.positive_count.sum().clamp_min(1)
    node = torch.arange(bins + 1, device=positives.device)
    last = torch.where(positives.detach() != 0, node, -1).amax()
    lowest = torch.where(last < 0, torch.inf, 1 - 2 * (last + 1).to(positives.dtype) / bins)
    ahead, active = negatives_up_to(pairs, bins, Count(above=lowest))
    # Σ_r h⁻_r φ_r, summed by parts: the sums of h⁻ times the steps of φ, which are h⁺.
    total = ahead[:, :-1] @ positives[:-1] + ahead[:, -1] * positives[-1]
    return Terms(total=total, count=ahead[:, -1], active=active)
