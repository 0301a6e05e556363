"""Large-margin softmax: a linear classifier with the angle to the own class multiplied."""

from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.proxies import Proxies, kaiming_fan_out, own_class
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.sphereface import blended, check_multiple
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, softplus
from nearfar.similarity.stable import lengths


@register_loss(
    needs="positive", proxies=Proxies(kaiming_fan_out, unit="neither", measures=("cosine",)), lengths=True
)
def large_margin_softmax(
    pairs: Pairs, *, margin: int = 4, temperature: float = 1.0, blend: float = 0.0
) -> Float[Tensor, " anchor"]:
    """Cross-entropy over <x, w>, after the angle between embedding and own class is multiplied.

    With θ_ij the angle between embedding i and the weights w_j of class j:

        L_i = -log( exp(|w_y||x_i| f(θ_iy)/τ) / (exp(|w_y||x_i| f(θ_iy)/τ) + Σ_{j≠y} exp(<x_i, w_j>/τ)) )
        f(θ) = (λ cos θ + ψ(θ)) / (1 + λ)
        ψ(θ) = (-1)^k cos(mθ) - 2k   for kπ/m <= θ <= (k+1)π/m

    Embeddings and weights keep their lengths here. The weights start as normal deviates of variance
    2/classes (He initialisation).

    Args:
        margin: m, a whole number of at least 1.
        temperature: τ (> 0); the paper has 1.
        blend: λ (>= 0). The paper trains with a large one that falls; 0 is the loss itself.

    Returns:
        One value per anchor.

    Raises:
        NearfarError: if a setting is out of range.

    Reference:
        Liu et al., ICML 2016. https://arxiv.org/abs/1612.02295
    """
    check_multiple(margin, temperature, blend)
    own = own_class(pairs)
    length = lengths(own.anchors) * lengths(own.candidates[:, 0])
    (others,) = pairs.stream(LogSumExp(scale=1 / temperature))
    return softplus(others - blended(own.similarity, length, margin, blend) / temperature)
