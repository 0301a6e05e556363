"""Weighted triplet loss: a soft farthest positive against a soft nearest negative."""

from math import log
from typing import Literal

import torch
from torch import Tensor

from nearfar.losses.parts.limits import check_not_negative
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.pairs import Pairs
from nearfar.similarity import Count, LogSumExp, Measure, SoftMean, normalize, softplus
from nearfar.similarity.stable import full_precision


def squared_distances(embeddings: Tensor, similarity: Measure) -> tuple[Tensor, Measure]:
    """Compare unit vectors by the squared distance 2 - 2 cos where the cosine was asked for."""
    if similarity != "cosine":
        return embeddings, similarity
    return normalize(full_precision(embeddings)), "squared_euclidean"


@register_loss(view=squared_distances, table="short_at_once")
def triplet_weighted(
    pairs: Pairs,
    *,
    margin: float = 0.3,
    soft: bool = False,
    self_positive: Literal["never", "always", "alone"] = "never",
    eps: float = 0.0,
) -> Terms:
    """Ask that an anchor's positives be nearer than its negatives, each side averaged by hardness.

    With D_ij the distance, m the margin, P_i the positives and N_i the negatives of anchor i:

        D⁺_i = Σ_{j∈P_i} p_ij D_ij,   p_ij = exp(D_ij) / Σ_{k∈P_i} exp(D_ik)
        D⁻_i = Σ_{j∈N_i} q_ij D_ij,   q_ij = exp(-D_ij) / Σ_{k∈N_i} exp(-D_ik)
        L_i = max(0, D⁺_i - D⁻_i + m)          or log(1 + exp(D⁺_i - D⁻_i + m))          soft

    The weights carry gradient. D is the squared distance 2 - 2 cos of unit vectors for the cosine
    (fast-reid's NORM_FEAT), the distance for ``"euclidean"`` (its default), -s otherwise. With
    ``mining="hard"`` one positive and one negative are left, and this is Hermans' batch hard, averaged over
    all anchors.

    fast-reid differs, which is a matter of settings: ``self_positive="always", eps=1e-6`` is its
    weighted loss, ``self_positive="alone", mining="hard"`` its hard one; its margin 0 is ``soft=True``.

    Args:
        margin: m, in units of D.
        soft: log(1 + e^x) instead of the hinge.
        self_positive: whether an anchor of a batch is its own positive, at distance 0: "always", or
            "alone", where it has no other. Either way an anchor without positives takes part.
        eps: added to the sums that weights are divided by: Σ exp(D_ik - max_k D_ik) of positives,
            Σ exp(-D_ik) of negatives. Then a side without pairs has distance 0 instead of taking no part,
            and from a distance of -log(eps) on all negatives fade to distance 0, which is why the default
            is 0.

    Returns:
        One value per anchor; 0 for an anchor without positives or without negatives (but see ``eps``).

    Raises:
        NearfarError: if ``eps`` is negative.

    Reference:
        Ristani & Tomasi, CVPR 2018. https://arxiv.org/abs/1803.10859
    """
    check_not_negative(eps=eps, margin=margin)
    near, mass, negatives = pairs.stream(SoftMean(scale=1.0), LogSumExp(scale=1.0), Count())
    far, positives = _farthest(pairs, self_positive, eps)
    if eps:
        near = near * torch.sigmoid(mass - log(eps))
        valid = torch.ones_like(near)
    else:
        valid = ((positives > 0) & (negatives > 0)).to(near)
    # D⁺ - D⁻ in similarities: the negatives' minus the positives'.
    apart = near - far + margin
    value = (softplus(apart) if soft else apart.relu()) * valid
    return Terms(total=value, count=valid, active=(value != 0).to(value))


def _farthest(pairs: Pairs, self_positive: str, eps: float) -> tuple[Tensor, Tensor]:
    """Return each anchor's mean similarity of positives, weighed by exp(-s), and how many it has."""
    s, own, count = pairs.positives.similarity, pairs.block.relation.own, pairs.positive_count
    itself = s.new_zeros(len(pairs))
    alike = torch.zeros_like(count, dtype=torch.bool)
    if self_positive != "never" and own is not None:
        alike = (own >= 0) & (count == 0) if self_positive == "alone" else own >= 0
        itself = pairs.block.at(torch.arange(len(own), device=own.device), own.clamp_min(0))
    # Without eps the least similarity cancels; with it, the value depends on it.
    least = torch.minimum(pairs.per_anchor(s, "min"), itself.masked_fill(~alike, torch.inf))
    least = least if eps else least.detach()
    weight = (pairs.of_anchor(least) - s).exp()
    own_weight = (least - itself).masked_fill(~alike, -torch.inf).exp()
    mass = pairs.per_anchor(weight, "sum") + own_weight
    total = pairs.per_anchor(weight * s, "sum") + own_weight * itself
    return total / (mass + eps + (mass == 0)), count + alike
