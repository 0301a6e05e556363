"""Recall@k surrogate: how many positives are among the first k, ranks and short lists both soft."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.ranks import own_similarity, positives_above
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import SigmoidSum


@register_loss(reduction="mean_valid", needs="positive", table="short")
def recall_at_k(
    pairs: Pairs,
    *,
    ks: Sequence[int] = (1, 2, 4, 8, 16),
    temperature: float = 0.01,
    rank_temperature: float = 1.0,
    out_of: Literal["positives", "reachable"] = "positives",
    with_self: bool = False,
) -> Float[Tensor, " anchor"]:
    """Bring the positives of each anchor among its k nearest, for several k at once.

    With s_ij the similarity, τ₁ and τ₂ the temperatures of ranks and of similarities, P_i the positives and
    C_i all candidates of anchor i:

        r_ip = 1 + Σ_{j∈C_i, j≠p} σ((s_ij - s_ip) / τ₂)
        L_i = 1/|K| Σ_{k∈K} [1 - 1/|P_i| Σ_{p∈P_i} σ((k - r_ip) / τ₁)]

    Classes may be of any size. Every positive is compared with every negative of its anchor: that work is
    inherent, but none of it is stored. Positives among themselves are taken some anchors at a time. The
    paper's mixing of similarities (SiMix) is no part of this.

    Args:
        ks: K, the lengths of the short lists.
        temperature: τ₂ (> 0), in units of the similarity.
        rank_temperature: τ₁ (> 0), in ranks.
        out_of: what the positives found are divided by: |P_i|, or as in the authors' code the most there is
            room for, min(k, |P_i|); the positives found are then no more than k either.
        with_self: count the anchor itself among the candidates that a positive is ranked with, as the
            authors' code does.

    Returns:
        One value per anchor; 0 for an anchor without positives. The mean is over anchors that have one.

    Raises:
        NearfarError: if a temperature is not positive, or ``ks`` is empty or has a k below 1.

    Reference:
        Patel et al., CVPR 2022. https://arxiv.org/abs/2108.11179
    """
    if temperature <= 0 or rank_temperature <= 0:
        raise NearfarError(
            f"temperatures must be positive; got temperature={temperature}, "
            f"rank_temperature={rank_temperature}."
        )
    check_positive(temperature=temperature, rank_temperature=rank_temperature)
    if not isinstance(ks, Sequence) or not ks or not all(isinstance(k, int) and k >= 1 for k in ks):
        raise NearfarError(f"ks must be whole numbers from 1 on, one or more; got {ks!r}.")
    s = pairs.positives.similarity
    (negatives,) = pairs.stream(SigmoidSum(s, 1 / temperature, per="positive"))
    rank = 1 + positives_above(pairs, temperature) + negatives
    if with_self:
        rank = rank + torch.sigmoid((pairs.of_anchor(own_similarity(pairs)) - s) / temperature)
    count = pairs.positive_count
    total = torch.zeros_like(count)
    for k in ks:
        beyond = (rank - k) / rank_temperature
        if out_of == "positives":
            total = total + pairs.per_anchor(beyond.sigmoid(), "sum") / count.clamp_min(1)
        else:
            found = pairs.per_anchor((-beyond).sigmoid(), "sum")
            found = found.masked_fill(found >= k, k)
            total = total + torch.where(count > 0, 1 - found / count.clamp(1, k), 0.0)
    return total / len(ks)
