"""CurricularFace: easy negatives first, hard ones more and more as training proceeds."""

from jaxtyping import Float
from torch import Tensor

from nearfar.losses.arcface import check_angular, widened
from nearfar.losses.parts.angles import own_angle, turned
from nearfar.losses.parts.proxies import Proxies, normal
from nearfar.losses.parts.registry import Running, register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import softplus
from nearfar.similarity.classes.steps import ModulatedLogSumExp

MOMENTUM = 0.01
"""How much of t a batch makes."""


def update(pairs: Pairs, running: Running) -> Running:
    """Move t towards the batch's mean cosine with the own class."""
    mean = pairs.positives.similarity.mean()
    return {"t": MOMENTUM * mean + (1 - MOMENTUM) * running["t"]} if len(pairs) else running


@register_loss(
    needs="positive",
    proxies=Proxies(normal(0.01), measures=("cosine",)),
    running={"t": 0.0},
    update=update,
)
def curricular_face(
    pairs: Pairs, t: Float[Tensor, ""], *, margin: float = 0.5, temperature: float = 1 / 64
) -> Float[Tensor, " anchor"]:
    """ArcFace whose hard negatives weigh little at first, and much when embeddings are near their classes.

    With θ_ij the angle between embedding i and the proxy of class j, and t the running mean of cos θ_iy:

        L_i = -log( exp(f(θ_iy)/τ) / (exp(f(θ_iy)/τ) + Σ_{j≠y} exp(h(cos θ_ij)/τ)) )
        h(c) = c (t + c)   where c > cos(θ_iy + m),  else c
        f as in ``arcface``

    t is 0 at first and moves in training by 1 % towards each batch's mean before the batch is judged; it is
    ``loss.running_t``, in the state of the loss, and a constant for the gradient. It moves neither without
    gradient nor by a batch that is not finite, and once for a step that ``torch.utils.checkpoint`` computes
    twice. The proxies start as normal deviates × 0.01.

    Args:
        margin: m, an angle in radians, at least 0 and less than π.
        temperature: τ (> 0), the inverse of the paper's s.

    Returns:
        One value per anchor.

    Raises:
        NearfarError: if ``margin`` or ``temperature`` is out of range.

    Reference:
        Huang et al., CVPR 2020. https://arxiv.org/abs/2004.00288
    """
    check_angular(margin, temperature)
    boundary = turned(*own_angle(pairs), margin).detach()
    (others,) = pairs.stream(
        ModulatedLogSumExp(scale=1 / temperature, above=boundary, offset=t)  # pyrefly: ignore
    )
    return softplus(others - widened(pairs, margin, "line") / temperature)
