"""Uniformity: embeddings spread over the sphere, whatever their classes."""

import torch

from nearfar.errors import NearfarError
from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.square import squared_distance_scale
from nearfar.losses.parts.terms import Terms
from nearfar.pairs import Pairs
from nearfar.similarity import Count, LogSumExp


@register_loss(needs="nothing", separable=False, table=True)
def uniformity(pairs: Pairs, *, sharpness: float = 2.0) -> Terms:
    """Logarithm of the mean Gaussian potential of all pairs of the batch.

    With x of unit length for the cosine, and n the rows of the batch:

        L_i = log( 1/(n (n-1)) Σ_i Σ_{j≠i} exp(-t |x_i - x_j|²) ),   the same for every i

    Classes play no part; two rows with the same id are no pair. Nothing of size n × n is stored.

    Args:
        sharpness: t (> 0). Larger: only the nearest neighbours repel.

    Returns:
        The same value for every anchor; 0 for a batch without pairs.

    Raises:
        NearfarError: if ``sharpness`` is not positive, or the similarity is not a squared distance.

    Reference:
        Wang & Isola, ICML 2020. https://arxiv.org/abs/2005.10242
    """
    check_positive(sharpness=sharpness)
    if pairs.measure not in ("cosine", "squared_euclidean"):
        raise NearfarError(
            "uniformity is of squared distances; use similarity='cosine' (of unit vectors) or "
            f"'squared_euclidean', not {pairs.measure!r}."
        )
    scale = squared_distance_scale(pairs)
    shift = 1.0 if scale == 2.0 else 0.0  # -|x - y|² = 2 (s - 1) for unit vectors
    near, count = pairs.stream(LogSumExp(scale=sharpness * scale, shift=shift), Count())
    pairs_there = count.sum()
    some = pairs_there > 0
    if len(near):
        total = torch.logsumexp(torch.where(some, near, 0.0), 0)
        value = torch.where(some, total - pairs_there.double().clamp_min(1).log().to(total), 0.0)
    else:
        value = 0 * pairs.block.anchors.sum()
    every = torch.ones_like(near)
    return Terms(total=value * every, count=every, active=every)
