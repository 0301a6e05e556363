"""Squared length of embeddings, as a term of a sum of losses."""

from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.views import as_given
from nearfar.pairs import Pairs


@register_loss(needs="nothing", view=as_given, lengths=True, table=True)
def l2_norm(pairs: Pairs) -> Float[Tensor, " anchor"]:
    """Keep embeddings short, for losses on inner products of embeddings of any length.

    With x_i the embedding as it was given, whatever the similarity:

        L_i = 1/2 |x_i|²

    The public code of N-pair adds λ/4 (mean |x_i|² of the anchors + mean |x_p|² of their positives); over all
    rows of the batch that is ``Sum({npair: 1.0, "l2_norm": λ})`` with λ = 0.002.

    ``nearfar train`` gives a sum with this in it what the head makes, before that is brought to unit length.
    With the cosine the other losses do not notice; with ``similarity = "dot"``, as in the paper, they do.

    Returns:
        One value per anchor.

    Reference:
        Sohn, NeurIPS 2016 (its regulariser).
        https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective
    """
    return pairs.block.anchors.square().sum(1) / 2
