"""AdaFace: the margin of an image goes by its quality, as the length of its embedding tells it."""

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.arcface import check_angular
from nearfar.losses.parts.angles import own_angle, turned
from nearfar.losses.parts.proxies import Proxies, own_class, unit_uniform
from nearfar.losses.parts.registry import Running, register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, softplus

MOMENTUM = 0.01
"""How much of the running mean and spread a batch makes."""


def update(pairs: Pairs, running: Running) -> Running:
    """Move mean and spread of the embeddings' lengths towards those of the batch."""
    lengths = _lengths(pairs)
    if not len(lengths):
        return running
    # One embedding has no spread.
    batch = {"mean": lengths.mean(), "spread": lengths.std() if len(lengths) > 1 else running["spread"]}
    return {key: MOMENTUM * batch[key] + (1 - MOMENTUM) * running[key] for key in running}


@register_loss(
    needs="positive",
    proxies=Proxies(unit_uniform, measures=("cosine",)),
    lengths=True,
    running={"mean": 20.0, "spread": 100.0},
    update=update,
)
def adaface(
    pairs: Pairs,
    mean: Float[Tensor, ""],
    spread: Float[Tensor, ""],
    *,
    margin: float = 0.4,
    temperature: float = 1 / 64,
    concentration: float = 0.333,
) -> Float[Tensor, " anchor"]:
    """Classify with a margin on the angle and one on the cosine, both by the embedding's length.

    With θ_ij the angle between embedding i and the proxy of class j, and μ, σ the running mean and standard
    deviation of the lengths |x| of embeddings (between 0.001 and 100):

        q_i = (|x_i| - μ)/(σ + 0.001) · h, between -1 and 1
        L_i = -log( exp(f_i/τ) / (exp(f_i/τ) + Σ_{j≠y} exp(cos θ_ij / τ)) )
        f_i = cos(θ_iy - m q_i) - m (1 + q_i),   the angle between 0 and π

    A long embedding, of a good image, gets an additive margin on the cosine (as ``cosface``), a short one a
    negative angular one. μ and σ start at 20 and 100 and move in training by 1 % towards each batch before it
    is judged (``loss.running_mean``, ``loss.running_spread``, in the state of the loss); they and q are
    constants for the gradient, as in the paper. They move neither without gradient nor by a batch that is not
    finite, and once for a step that ``torch.utils.checkpoint`` computes twice. Give it embeddings of
    their own length, as ``nearfar train`` does: on unit vectors q is the same for all. Proxies start uniform,
    scaled to unit length.

    Args:
        margin: m, at least 0 and less than π.
        temperature: τ (> 0), the inverse of the paper's s.
        concentration: h (>= 0), how far from the mean the margins reach their ends.

    Returns:
        One value per anchor.

    Raises:
        NearfarError: if a setting is out of range.

    Reference:
        Kim et al., CVPR 2022. https://arxiv.org/abs/2204.00964
    """
    check_angular(margin, temperature)
    if concentration < 0:
        raise NearfarError(f"concentration must not be negative; got {concentration}.")
    lengths = _lengths(pairs)
    quality = ((lengths - mean) / (spread + 1e-3) * concentration).clamp(-1, 1).to(lengths)
    by = -margin * quality
    cosine, sine = own_angle(pairs)
    wide = turned(cosine, sine, by)
    # θ + by below 0, or above π, is cut off there.
    plain = cosine.detach()
    wide = torch.where((by < 0) & (plain > by.cos()), 1.0, wide)
    wide = torch.where((by > 0) & (plain < -by.cos()), -1.0, wide)
    own = wide - margin * (1 + quality)
    (others,) = pairs.stream(LogSumExp(scale=1 / temperature))
    return softplus(others - own / temperature)


def _lengths(pairs: Pairs) -> Float[Tensor, " anchor"]:
    return torch.linalg.vector_norm(own_class(pairs).given.detach(), dim=1).clamp(1e-3, 100.0)
