"""N-pair loss over mined pairs: all positives together against all negatives together."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, softplus


@register_loss(needs="positive", table=True)
def npair_mined(
    pairs: Pairs, *, orphan_repulsion: bool = False, gradient: Literal["true", "caffe"] = "true"
) -> Float[Tensor, " anchor"]:
    """Raise the share of the positives among the selected pairs: the Caffe layer NPairMultiClassLoss.

    With s_ij the similarity, P_i the selected positives and N_i the selected negatives of anchor i:

        L_i = -log( Σ_{j∈P_i} exp(s_ij) / Σ_{j∈P_i∪N_i} exp(s_ij) )

    The layer compares the embeddings it is given by their dot product (``similarity="dot"``) and selects
    pairs as ``mining="relative"`` does. It averages over all anchors.

    Args:
        orphan_repulsion: let an anchor that has negatives but no positive push them away: gradient of
            log Σ exp(s_ij) over its negatives although its value is 0. The layer does so.
        gradient: "true", or "caffe" for the half of it that the layer gives back (on one rank).

    Returns:
        One value per anchor; 0 for an anchor without positives or without negatives.

    Reference:
        Sohn, NeurIPS 2016, for the loss without mining.
        https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective
    """
    (negatives,) = pairs.stream(LogSumExp(scale=1.0))
    positives = pairs.per_anchor(pairs.positives.similarity, "logsumexp")
    some = pairs.positive_count > 0
    value = torch.where(some, softplus(negatives - positives.masked_fill(~some, 0.0)), 0.0)
    if orphan_repulsion:
        orphan = ~some & (negatives > -torch.inf)
        push = negatives.masked_fill(~orphan, 0.0)
        value = value + (push - push.detach())
    if gradient == "caffe":
        value = value.detach() / 2 + value / 2
    return value
