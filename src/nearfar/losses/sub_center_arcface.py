"""Sub-centre ArcFace: several proxies for each class, of which the nearest counts."""

from jaxtyping import Float
from torch import Tensor

from nearfar.losses.arcface import Beyond, check_angular, widened
from nearfar.losses.parts.proxies import Proxies, normal
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, softplus


@register_loss(needs="positive", proxies=Proxies(normal(0.01), measures=("cosine",), centres="centres"))
def sub_center_arcface(
    pairs: Pairs,
    *,
    margin: float = 0.5,
    temperature: float = 1 / 64,
    centres: int = 3,  # noqa: ARG001, read where the proxies are made and compared
    beyond: Beyond = "line",
) -> Float[Tensor, " anchor"]:
    """ArcFace where a class is as near as the nearest of its K centres.

    With w_jk centre k of class j:

        L_i = -log( exp(f(θ_iy)/τ) / (exp(f(θ_iy)/τ) + Σ_{j≠y} exp(cos θ_ij / τ)) )
        cos θ_ij = max_k cos(x_i, w_jk),   f as in ``arcface``

    Images that are wrong or unusual gather around centres of their own. ``loss.proxies`` is
    [class · K, dim]: the centres of class j are the rows j·K … j·K + K - 1. Of equally near centres the first
    gets the gradient. They start as normal deviates × 0.01.

    Args:
        margin: m, an angle in radians, at least 0 and less than π.
        temperature: τ (> 0), the inverse of the paper's s.
        centres: K (>= 1).
        beyond: what f is where θ + m > π; see ``arcface``.

    Returns:
        One value per anchor.

    Raises:
        NearfarError: if a setting is out of range.

    Reference:
        Deng et al., ECCV 2020.
        https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123560715.pdf
    """
    check_angular(margin, temperature)
    (others,) = pairs.stream(LogSumExp(scale=1 / temperature))
    return softplus(others - widened(pairs, margin, beyond) / temperature)
