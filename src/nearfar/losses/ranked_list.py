"""Ranked list loss: positives inside one distance, negatives beyond another, near negatives weighing more."""

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.views import distances
from nearfar.pairs import Pairs
from nearfar.similarity import Count, SoftMean


@register_loss(view=distances, table=True)
def ranked_list(
    pairs: Pairs,
    *,
    boundary: float = 1.2,
    margin: float = 0.4,
    sharpness: float = 10.0,
    positive_sharpness: float = 0.0,
    balance: float = 0.5,
    frozen: bool = False,
) -> Float[Tensor, " anchor"]:
    """Pull positives within one distance, push negatives beyond another, the worst of each most.

    With D_ij the Euclidean distance (of unit vectors for the cosine), α the boundary, m the margin,
    P*_i the positives with D_ij > α - m and N*_i the negatives with D_ij < α:

        L_i = (1-λ) Σ_{j∈P*_i} p_ij (D_ij - α + m) + λ Σ_{j∈N*_i} q_ij (α - D_ij)
        p_i = softmax over P*_i of T⁺ D_ij,   q_i = softmax over N*_i of -T D_ij

    Args:
        boundary: α, the distance negatives should keep.
        margin: m (0 <= m <= α), how much nearer the positives should be.
        sharpness: T (>= 0), how much the nearest negatives weigh; 0 weighs all alike.
        positive_sharpness: T⁺ (>= 0), the same for the farthest positives.
        balance: λ in [0, 1], the weight of the negatives' half.
        frozen: take the weights p and q as constants for the gradient, as the paper does. Same value.

    Returns:
        One value per anchor; 0 for an anchor whose pairs are all where they should be.

    Raises:
        NearfarError: if a setting is out of range.

    Reference:
        Wang et al., CVPR 2019; the balance is that of the journal version.
        https://arxiv.org/abs/1903.03238
    """
    if not 0 <= margin <= boundary:
        raise NearfarError(
            f"margin must lie between 0 and boundary; got margin={margin}, boundary={boundary}."
        )
    if sharpness < 0 or positive_sharpness < 0:
        raise NearfarError(
            f"sharpness must not be negative; got sharpness={sharpness}, "
            f"positive_sharpness={positive_sharpness}."
        )
    if not 0 <= balance <= 1:
        raise NearfarError(f"balance must lie between 0 and 1; got {balance}.")
    far = -pairs.positives.similarity
    limit = torch.full((len(pairs),), -boundary, dtype=far.dtype, device=far.device)
    mean, negatives = pairs.narrow(above=limit).stream(SoftMean(scale=sharpness, frozen=frozen), Count())
    push = torch.where(negatives > 0, boundary + mean, 0.0)

    excess = far - (boundary - margin)
    logit = positive_sharpness * (excess.detach() if frozen else excess)
    logit = logit.masked_fill(excess <= 0, -torch.inf)
    total = pairs.per_anchor(logit, "logsumexp")
    total = total.masked_fill(total == -torch.inf, 0.0)
    weight = (logit - pairs.of_anchor(total)).exp()
    return (1 - balance) * pairs.per_anchor(weight * excess, "sum") + balance * push
