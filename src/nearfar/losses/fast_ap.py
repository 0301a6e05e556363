"""FastAP: average precision from histograms of distances."""

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.bins import negatives_up_to, of_positives
from nearfar.losses.parts.limits import check_bins
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.views import cosine
from nearfar.pairs import Pairs


@register_loss(reduction="mean_valid", needs="positive", view=cosine, table="short_at_once")
def fast_ap(pairs: Pairs, *, bins: int = 10) -> Float[Tensor, " anchor"]:
    """Raise the average precision of each anchor's ranking, distances sorted into soft bins.

    With D²_ij = 2 - 2 s_ij in [0, 4] for unit vectors, Δ = 4/L, P_i the positives and N_i the negatives of
    anchor i, and l = 0, …, L:

        h⁺_l = Σ_{j∈P_i} max(0, 1 - |D²_ij - lΔ| / Δ),   h⁻_l the same over N_i
        H⁺_l = Σ_{k<=l} h⁺_k,   H_l = Σ_{k<=l} (h⁺_k + h⁻_k)
        L_i = 1 - 1/|P_i| Σ_l h⁺_l H⁺_l / H_l

    The loss is about unit vectors whatever ``similarity`` says. Classes may be of any size; negatives stream
    as one hinge for each bin, and memory grows with anchors x bins.

    Args:
        bins: L (>= 1). More: finer distances, and gradient for fewer pairs.

    Returns:
        One value per anchor; 0 for an anchor without positives. The mean is over anchors that have one.

    Raises:
        NearfarError: if ``bins`` is less than 1.

    Reference:
        Cakir et al., CVPR 2019.
        https://openaccess.thecvf.com/content_CVPR_2019/html/Cakir_Deep_Metric_Learning_to_Rank_CVPR_2019_paper.html
    """
    check_bins(bins)
    positives = of_positives(pairs, bins)
    found = positives.cumsum(1)
    (ahead,) = negatives_up_to(pairs, bins)
    some = found > 0
    # 1 - H⁺/H as H⁻/H: a loss near 0 keeps its digits.
    lost = torch.where(some, ahead / torch.where(some, found + ahead, 1.0), 0.0)
    return (positives * lost).sum(1) / pairs.positive_count.clamp_min(1)
