"""Proxy-NCA: each embedding nearer to its class's proxy than to those of all others."""

from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.proxies import Proxies, normal
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.square import squared_distance_scale
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp


@register_loss(needs="positive", proxies=Proxies(normal(1 / 8), measures=("cosine", "squared_euclidean")))
def proxy_nca(pairs: Pairs, *, temperature: float = 1.0) -> Float[Tensor, " anchor"]:
    """Neighbourhood components analysis with one proxy for each class, the own class not in the denominator.

    With D²_ic the squared distance of embedding i from the proxy of class c, of unit vectors for the cosine:

        L_i = D²_iy/τ + log Σ_{c≠y} exp(-D²_ic/τ)

    The value may be negative. ``proxy_nca_pp`` has the own class in the denominator, as has the
    ``ProxyNCALoss`` of pytorch-metric-learning. The proxies start as normal deviates / 8.

    Args:
        temperature: τ (> 0). The paper has 1; public code scales unit vectors by 3, which is τ = 1/9.

    Returns:
        One value per anchor.

    Raises:
        NearfarError: if ``temperature`` is not positive.

    Reference:
        Movshovitz-Attias et al., ICCV 2017. https://arxiv.org/abs/1703.07464
    """
    check_positive(temperature=temperature)
    # Of unit vectors -D² = 2s - 2, and the constant cancels.
    scale = squared_distance_scale(pairs) / temperature
    (others,) = pairs.stream(LogSumExp(scale=scale))
    return others - scale * pairs.positives.similarity
