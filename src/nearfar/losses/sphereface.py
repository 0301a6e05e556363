"""SphereFace: classify with the angle to the own class multiplied."""

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.angles import multiplied
from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.proxies import Proxies, own_class, unit_uniform
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, softplus
from nearfar.similarity.stable import lengths

MOST_TIMES = 64


@register_loss(
    needs="positive", proxies=Proxies(unit_uniform, unit="proxies", measures=("cosine",)), lengths=True
)
def sphereface(
    pairs: Pairs, *, margin: int = 4, temperature: float = 1.0, blend: float = 0.0
) -> Float[Tensor, " anchor"]:
    """Cross-entropy over |x| cos θ with unit proxies; the own class's angle counts ``margin`` times.

    With θ_ij the angle between embedding i and the proxy of class j:

        L_i = -log( exp(|x_i| f(θ_iy)/τ) / (exp(|x_i| f(θ_iy)/τ) + Σ_{j≠y} exp(|x_i| cos θ_ij / τ)) )
        f(θ) = (λ cos θ + ψ(θ)) / (1 + λ)
        ψ(θ) = (-1)^k cos(mθ) - 2k   for kπ/m <= θ <= (k+1)π/m

    The embedding keeps its length here; ``nearfar train`` gives it what the head makes, before that is
    brought to unit length. For unit embeddings the logits reach no farther than 1/τ: set τ to about 1/30.
    Proxies start uniform, scaled to unit length.

    Args:
        margin: m, a whole number of at least 1.
        temperature: τ (> 0); the paper has 1.
        blend: λ (>= 0). The paper trains with a large one that falls to 5; 0 is the loss itself.

    Returns:
        One value per anchor.

    Raises:
        NearfarError: if a setting is out of range.

    Reference:
        Liu et al., CVPR 2017, eq. 7. https://arxiv.org/abs/1704.08063
    """
    check_multiple(margin, temperature, blend)
    own = own_class(pairs)
    length = lengths(own.anchors)
    (others,) = pairs.stream(LogSumExp(scale=1 / temperature))
    return softplus(others - blended(own.similarity, length, margin, blend) / temperature)


def check_multiple(margin: int, temperature: float, blend: float) -> None:
    """Refuse settings out of range."""
    if not 1 <= margin <= MOST_TIMES:
        raise NearfarError(
            f"margin must be a whole number of at least 1, and at most {MOST_TIMES}; got {margin}."
        )
    check_positive(temperature=temperature)
    if blend < 0:
        raise NearfarError(f"blend must not be negative; got {blend}.")


def blended(
    product: Float[Tensor, " anchor"], length: Float[Tensor, " anchor"], margin: int, blend: float
) -> Float[Tensor, " anchor"]:
    """Return length · f(θ), where ``product`` is length · cos θ; 0 where the length is 0."""
    some = length > 0
    cosine = product / torch.where(some, length, 1.0)
    angle = length * multiplied(cosine.clamp(-1, 1), margin)
    return torch.where(some, (blend * product + angle) / (1 + blend), 0.0)
