"""A factor on similarities that is learned as its logarithm, so that it stays positive."""

import math

from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NearfarError

MOST_LOG = 20


def exponential(log_scale: float | Float[Tensor, "..."]) -> float | Float[Tensor, ""]:
    """Return e^log_scale, a number or a differentiable one.

    Raises:
        NearfarError: if there is one for each class, or it is too large to be a logarithm.
    """
    if not isinstance(log_scale, Tensor):
        if abs(log_scale) > MOST_LOG:
            raise NearfarError(
                f"log_scale is the logarithm of a scale, between {-MOST_LOG} and {MOST_LOG}; got {log_scale}."
            )
        return math.exp(log_scale)
    if log_scale.ndim:
        raise NearfarError("this loss learns one scale for all classes; create it without classes=…")
    return log_scale.exp()
