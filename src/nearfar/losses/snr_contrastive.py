"""SNR contrastive loss: distance as the noise it takes to turn one embedding into another."""

import torch
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.pairs import Pairs
from nearfar.similarity import Count, HingeSum, Measure, normalize
from nearfar.similarity.stable import full_precision


def _centred(embeddings: Tensor, similarity: Measure) -> tuple[Tensor, Measure]:
    """Take each row's mean off it (of the unit vector for the cosine): variances become squared lengths."""
    x = full_precision(embeddings)
    x = normalize(x) if similarity == "cosine" else x
    centred = x - x.mean(1, keepdim=True)
    # What rounding leaves of a constant row is no signal.
    noise = 8 * torch.finfo(x.dtype).eps
    signal = centred.detach().square().sum(1) > noise**2 * x.detach().square().sum(1)
    return centred * signal[:, None], "squared_euclidean"


@register_loss(reduction="mean_active", view=_centred, table=True)
def snr_contrastive(
    pairs: Pairs, *, positive_margin: float = 0.0, negative_margin: float = 1.0
) -> tuple[Terms, Terms]:
    """Pull positives under one ratio of noise to signal, push negatives over the other.

    With var the variance over an embedding's dimensions, m⁺ and m⁻ the margins, P_i the positives and N_i the
    negatives of anchor i:

        L_i = Σ_{j∈P_i} max(0, d_ij - m⁺) + Σ_{j∈N_i} max(0, m⁻ - d_ij),   d_ij = var(x_i - x_j) / var(x_i)

    The anchor is the signal, so that d_ij and d_ji differ; unrelated embeddings are about 2 apart. Positives
    and negatives are averaged each for themselves. The paper also draws the mean of each embedding to 0; here
    the mean is taken off, which the variance does not notice.

    Args:
        positive_margin: m⁺ (>= 0); a positive nearer than this costs nothing.
        negative_margin: m⁻ (>= 0); a negative farther than this costs nothing.

    Returns:
        One term per positive pair, and one per negative pair; 0 for an anchor without variance.

    Raises:
        NearfarError: if a margin is negative.

    Reference:
        Yuan et al., CVPR 2019. https://arxiv.org/abs/1904.02616
    """
    if positive_margin < 0 or negative_margin < 0:
        raise NearfarError(
            f"margins must not be negative; got positive_margin={positive_margin}, "
            f"negative_margin={negative_margin}."
        )
    variance = pairs.block.anchors.square().sum(1)
    signal = variance > 0
    inverse = signal / torch.where(signal, variance, 1.0)
    # d < m is s > -m var(x_i): a threshold of each anchor's own, with its gradient.
    limit = -negative_margin * variance
    beyond, active, negatives = pairs.stream(HingeSum(limit), Count(above=limit.detach()), Count())
    ratio = -pairs.positives.similarity * pairs.of_anchor(inverse)
    short = (ratio - positive_margin).relu() * pairs.of_anchor(signal)
    pull = Terms(
        total=pairs.per_anchor(short, "sum"),
        count=pairs.positive_count,
        active=pairs.per_anchor((short > 0).to(short), "sum"),
    )
    return pull, Terms(total=beyond * inverse, count=negatives, active=active * signal)
