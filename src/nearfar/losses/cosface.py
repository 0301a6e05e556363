"""CosFace: classify with a margin on the cosine of the own class."""

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.proxies import Proxies, xavier
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, softplus


@register_loss(needs="positive", proxies=Proxies(xavier, measures=("cosine",)))
def cosface(pairs: Pairs, *, margin: float = 0.35, temperature: float = 1 / 64) -> Float[Tensor, " anchor"]:
    """Cross-entropy over cosines, after the margin is taken off that of the own class.

    With c_ij = cos θ_ij the cosine of embedding i and the proxy of class j:

        L_i = -log( exp((c_iy - m)/τ) / (exp((c_iy - m)/τ) + Σ_{j≠y} exp(c_ij/τ)) )

    Also known as AM-Softmax. The proxies start uniformly within ±√(6/(classes + dim)) (Glorot).

    Args:
        margin: m, from 0 to 2.
        temperature: τ (> 0), the inverse of the paper's s.

    Returns:
        One value per anchor.

    Raises:
        NearfarError: if ``margin`` or ``temperature`` is out of range.

    Reference:
        Wang et al., CVPR 2018, eq. 4. https://arxiv.org/abs/1801.09414
    """
    check_positive(temperature=temperature)
    if not 0 <= margin <= 2:
        raise NearfarError(f"margin is a gap between cosines, from 0 to 2; got {margin}.")
    (others,) = pairs.stream(LogSumExp(scale=1 / temperature))
    return softplus(torch.sub(others, pairs.positives.similarity - margin, alpha=1 / temperature))
