"""Functions whose textbook form overflows, cancels or divides by zero, in a form that does not."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

AT_ONCE = ("cpu",)
"""Devices whose numbers can be read without waiting for them."""


def at_once(x: Tensor) -> bool:
    """Whether the host can read a tensor without waiting for it, in code that nobody compiles."""
    return x.device.type in AT_ONCE and not torch.compiler.is_compiling()


def normalize(x: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Scale each row to unit length; a zero row stays zero and gets zero gradient.

        y_i = x_i / |x_i|,   dy_i = (dx_i - y_i <y_i, dx_i>) / |x_i|

    torch's own ``normalize`` returns g / eps for a zero row, a blow-up of 1e12. Rows may be of any finite
    length: where a square would leave the range of numbers, rows are brought near length 1 first.
    """
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    if not _ordinary(length.detach().square()):
        x = x * _near_one(x.detach())
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    zero = length == 0
    return x * torch.where(zero, 0.0, torch.where(zero, 1.0, length).reciprocal())


def lengths(x: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
    """|x| of each row, also where |x|² is beyond the numbers there are; 0 with gradient 0 for a zero row."""
    largest = x.detach().abs().amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest, 1.0)
    return torch.linalg.vector_norm(x / scale, dim=1) * scale[:, 0]


def unit_factors(x: Float[Tensor, "n dim"]) -> tuple[Float[Tensor, "n 1"] | None, Float[Tensor, "n 1"]]:
    """Return what to multiply each row with, one after the other, for the same; without gradient.

    The first brings rows near length 1 and is None where all are; the second is 0 for a zero row.
    """
    length, scale = torch.linalg.vector_norm(x, dim=1, keepdim=True), None
    if not _ordinary(length.square()):
        scale = _near_one(x)
        length = torch.linalg.vector_norm(x * scale, dim=1, keepdim=True)
    zero = length == 0
    return scale, length.masked_fill_(zero, 1.0).reciprocal_().masked_fill_(zero, 0.0)


def inverse_lengths(x: Float[Tensor, "n dim"]) -> Float[Tensor, "n 1"]:
    """Return 1 / |x_i|, 0 for a zero row; without gradient."""
    scale, inverse = unit_factors(x)
    return inverse if scale is None else inverse * scale


def _ordinary(square: Float[Tensor, "n 1"]) -> bool:
    """Whether no squared length is near the end of the range, so that its power of 3/2 lies in it too.

    On other devices than the CPU to ask would be to wait for the answer: there they never count as such.
    """
    if not at_once(square):
        return False
    most = 2.0**80 if square.dtype == torch.float32 else 2.0**600
    each = square.numpy()
    return bool(((each >= 1 / most) & (each <= most)).all())


def _near_one(x: Float[Tensor, "n dim"]) -> Float[Tensor, "n 1"]:
    """Return powers of two that bring the largest number of each row near 1; 1 for zero, NaN and infinity."""
    if not x.shape[1]:
        return x.new_ones(len(x), 1)
    largest = x.abs().amax(1, keepdim=True)
    least = 126 if x.dtype == torch.float32 else 1022
    exponent = torch.frexp(largest).exponent.clamp(-least, least)
    there = (largest > 0) & (largest < torch.inf)
    return torch.exp2(-exponent.to(x.dtype)).masked_fill(~there, 1.0)


def softplus(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(1 + e^x), exact everywhere; 0 with gradient 0 at -inf.

    torch's ``softplus`` takes the straight line above 20, an error of 2e-9 that float64 can see; above 40 it
    cannot.
    """
    return torch.nn.functional.softplus(x, threshold=40.0)


def logsumexp(x: Float[Tensor, "n m"], keep: Tensor) -> Float[Tensor, " n"]:
    """log Σ e^x over the kept entries of each row; -inf, with gradient 0, where a row keeps none.

    The shares e^x / Σ e^x, its gradient, come to 1: torch's own are e^(x - result), and where x is far from 0
    the rounding of the result is theirs. Of a class far away, whose pull and push nearly cancel, that leaves
    nothing but rounding.
    """
    some = keep.any(1)
    x = x.masked_fill(~keep, -torch.inf).masked_fill(~some[:, None], 0.0)
    top = x.detach().amax(1) if x.shape[1] else x.new_zeros(len(x))
    top = top.nan_to_num(0.0, 0.0, 0.0)
    total = (x - top[:, None]).exp().sum(1)
    return (total.masked_fill(~some, 1.0).log() + top).masked_fill(~some, -torch.inf)


def full_precision(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half precision as float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def taken(x: Shaped[Tensor, "row *rest"], index: Int[Tensor, "*some"]) -> Tensor:
    """Return ``x[index]``, where places may come more than once, with a gradient that is the same every time.

    The gradient of indexing is added up by all threads at once, in whatever order they come.
    """
    return x.index_select(0, index.reshape(-1)).view(*index.shape, *x.shape[1:])


def places_in(mask: Bool[Tensor, " n"]) -> Int[Tensor, " some"]:
    """Return where a mask is true; a device is waited for, since the host must know how many that are."""
    if at_once(mask):
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return torch.nonzero(mask).squeeze(1)


def repeated(counts: Int[Tensor, " n"]) -> Int[Tensor, " some"]:
    """Return 0, 1, 2, …, each as often as its count says; a device is waited for."""
    if at_once(counts):
        return torch.from_numpy(np.repeat(np.arange(len(counts)), counts.numpy()))
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)


def read(x: Shaped[Tensor, ""]) -> float:
    """Return a number, by the way that no device is waited for where it lies on the CPU."""
    if not at_once(x):
        return float(x)
    x = x.detach()
    return float((x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).numpy())
