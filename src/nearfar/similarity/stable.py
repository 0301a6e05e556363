"""Functions whose textbook form overflows, cancels or divides by zero, in a form that does not."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def normalize(x: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Scale each row to unit length; a zero row stays zero and gets zero gradient.

        y_i = x_i / |x_i|,   dy_i = (dx_i - y_i <y_i, dx_i>) / |x_i|

    torch's own ``normalize`` returns g / eps for a zero row, a blow-up of 1e12.
    """
    square = x.square().sum(1, keepdim=True)
    zero = square == 0
    return x * torch.where(zero, 0.0, torch.where(zero, 1.0, square).rsqrt())


def softplus(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(1 + e^x), exact everywhere; 0 with gradient 0 at -inf.

    torch's ``softplus`` is the straight line above 20, an error of 2e-9 that float64 can see.
    """
    return torch.logaddexp(x, torch.zeros_like(x))


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
