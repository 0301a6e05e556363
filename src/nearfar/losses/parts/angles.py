"""Cosines of angles that a margin has been added to, or that are multiplied, without an arc cosine.

The derivative of acos is infinite where an embedding and its proxy are aligned; cos(θ + m) has no such fault.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.proxies import own_class
from nearfar.pairs import Pairs


def own_angle(pairs: Pairs) -> tuple[Float[Tensor, " anchor"], Float[Tensor, " anchor"]]:
    """Return cosine and sine of the angle between each embedding and its class."""
    own = own_class(pairs)
    return own.similarity, own.sine


def turned(
    cosine: Float[Tensor, " n"], sine: Float[Tensor, " n"], by: float | Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return cos(θ + by).

    At θ = 0 and θ = π it has a kink wherever ``by`` is not 0; the gradient there is that of cos θ · cos by,
    which is 0 in the vectors.
    """
    if isinstance(by, Tensor):
        return cosine * by.cos() - sine * by.sin()
    return torch.sub(cosine * math.cos(by), sine, alpha=math.sin(by))


def multiplied(cosine: Float[Tensor, " n"], times: int) -> Float[Tensor, " n"]:
    """Return ψ(θ) = (-1)^k cos(times · θ) - 2k, k = ⌊times · θ / π⌋, which falls from 1 to 1 - 2 · times.

    cos(mθ) is the Chebyshev polynomial of cos θ, and ψ has a continuous derivative.
    """
    before, this = torch.ones_like(cosine), cosine
    for _ in range(times - 1):
        before, this = this, 2 * cosine * this - before
    plain = cosine.detach()
    k = sum((plain < math.cos(j * math.pi / times)).to(plain) for j in range(1, times)) + torch.zeros_like(
        plain
    )
    return (1 - 2 * (k % 2)) * this - 2 * k
