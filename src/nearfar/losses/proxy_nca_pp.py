"""ProxyNCA++: the probability of the own class among all proxies, at a low temperature."""

from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.proxies import Proxies, normal
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.square import squared_distance_scale
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, softplus


@register_loss(needs="positive", proxies=Proxies(normal(1 / 8), measures=("cosine", "squared_euclidean")))
def proxy_nca_pp(pairs: Pairs, *, temperature: float = 1 / 9) -> Float[Tensor, " anchor"]:
    """Cross-entropy over the negated squared distances to the classes' proxies.

    With D²_ic the squared distance of embedding i from the proxy of class c, of unit vectors for the cosine:

        L_i = -log( exp(-D²_iy/τ) / Σ_c exp(-D²_ic/τ) )

    The proxies start as normal deviates / 8. The paper also has max pooling, a larger learning rate for the
    proxies (``optimizer.loss_lr``) and layer norm, which belong to the model.

    Args:
        temperature: τ (> 0).

    Returns:
        One value per anchor.

    Raises:
        NearfarError: if ``temperature`` is not positive.

    Reference:
        Teh et al., ECCV 2020, eq. 6. https://arxiv.org/abs/2004.01113
    """
    check_positive(temperature=temperature)
    scale = squared_distance_scale(pairs) / temperature
    (others,) = pairs.stream(LogSumExp(scale=scale))
    return softplus(others - scale * pairs.positives.similarity)
