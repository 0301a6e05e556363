"""A factor on similarities that is learned as its logarithm, so that it stays positive."""

import math

from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NearfarError


def exponential(log_scale: float | Float[Tensor, "..."]) -> float | Float[Tensor, ""]:
    """Return e^log_scale, a number or a differentiable one.

    Raises:
        NearfarError: if there is one for each class.
    """
    if not isinstance(log_scale, Tensor):
        return math.exp(log_scale)
    if log_scale.ndim:
        raise NearfarError("this loss learns one scale for all classes; create it without classes=…")
    return log_scale.exp()
