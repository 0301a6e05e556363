"""From pooled features to the dimension of the embedding."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from nearfar.errors import ConfigError, suggest

HeadName = Literal["linear", "none"]
NAMES: list[str] = ["linear", "none"]


def create_head(name: str, features: int, dim: int, *, layer_norm: bool) -> nn.Module:
    """Return the head of this name, with a layer norm before it if asked.

    Raises:
        ConfigError: if there is none, or ``dim`` is not positive.
    """
    if name not in NAMES:
        raise ConfigError(f"unknown head '{name}'; expected one of {', '.join(NAMES)}.{suggest(name, NAMES)}")
    if name == "linear" and dim < 1:
        raise ConfigError(f"dim must be 1 or more; got {dim}.")
    norm = [nn.LayerNorm(features)] if layer_norm else []
    return Head(*norm, *([nn.Linear(features, dim)] if name == "linear" else []))


class Head(nn.Sequential):
    """The parts of a head, each of which may have its own floating-point type."""

    def forward(self, input: Float[Tensor, "n features"]) -> Float[Tensor, "n dim"]:
        """Return what the last part makes of the features."""
        for part in self:
            input = in_its_type(part, input)
        return input


def in_its_type(module: nn.Module, x: Tensor) -> Tensor:
    """Return ``module(x)``, with ``x`` in the floating-point type of the first weights of ``module``."""
    types = (weight.dtype for weight in module.parameters() if weight.is_floating_point())
    return module(x.to(next(types, x.dtype)))
