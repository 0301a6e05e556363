"""From pooled features to the dimension of the embedding."""

from typing import Literal

from torch import nn

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
    return nn.Sequential(*norm, *([nn.Linear(features, dim)] if name == "linear" else []))
