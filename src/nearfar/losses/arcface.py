"""ArcFace: classify with a margin on the angle to the own class."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.angles import own_angle, turned
from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.proxies import Proxies, normal
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, softplus

Beyond = Literal["line", "turn", "easy"]


@register_loss(needs="positive", proxies=Proxies(normal(0.01), measures=("cosine",)))
def arcface(
    pairs: Pairs, *, margin: float = 0.5, temperature: float = 1 / 64, beyond: Beyond = "line"
) -> Float[Tensor, " anchor"]:
    """Cross-entropy over cosines, after the angle to the own class is made larger by a margin.

    With θ_ij the angle between embedding i and the proxy of class j:

        L_i = -log( exp(f(θ_iy)/τ) / (exp(f(θ_iy)/τ) + Σ_{j≠y} exp(cos θ_ij / τ)) )
        f(θ) = cos(θ + m)   where θ + m <= π

    cos(θ + m) is computed as cos θ cos m - sin θ sin m, so that value and gradient are exact and finite for
    every θ, aligned vectors included. The proxies start as normal deviates × 0.01.

    Args:
        margin: m, an angle in radians, at least 0 and less than π.
        temperature: τ (> 0), the inverse of the paper's s.
        beyond: what f is where θ + m > π. "line": cos θ - m sin m, which goes on falling (the authors' first
            code, and pytorch-metric-learning). "turn": cos(θ + m) as it is, which rises again (their later
            code). "easy": the margin is only for θ < π/2, and f = cos θ beyond that ("easy margin").

    Returns:
        One value per anchor.

    Raises:
        NearfarError: if ``margin`` or ``temperature`` is out of range.

    Reference:
        Deng et al., CVPR 2019. https://arxiv.org/abs/1801.07698
    """
    check_angular(margin, temperature)
    (others,) = pairs.stream(LogSumExp(scale=1 / temperature))
    return softplus(torch.sub(others, widened(pairs, margin, beyond), alpha=1 / temperature))


def check_angular(margin: float, temperature: float) -> None:
    """Refuse settings out of range."""
    if not 0 <= margin < math.pi:
        raise NearfarError(f"margin is an angle in radians, at least 0 and less than π; got {margin}.")
    check_positive(temperature=temperature)


def widened(pairs: Pairs, margin: float, beyond: Beyond) -> Float[Tensor, " anchor"]:
    """Return f(θ) of the angle to the own class; see ``arcface``."""
    cosine, sine = own_angle(pairs)
    wide = turned(cosine, sine, margin)
    if beyond == "turn":
        return wide
    if beyond == "easy":
        return torch.where(cosine > 0, wide, cosine)
    return torch.where(cosine >= -math.cos(margin), wide, cosine - margin * math.sin(margin))
