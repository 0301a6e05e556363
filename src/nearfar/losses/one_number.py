"""A number that is learned is a parameter of one element: FSDP2's ``fully_shard`` takes no scalars."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def learnable(value: float, classes: int | None) -> nn.Parameter:
    """Return a parameter that begins with ``value``, [1], or with as many of it as there are classes."""
    return nn.Parameter(torch.full((1 if classes is None else classes,), float(value)))


def as_number(value: Float[Tensor, " 1"]) -> Float[Tensor, ""]:
    """Return the number that such a parameter holds."""
    return value.reshape(())


def load_scalars(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take scalars of an older checkpoint: a hook of ``load_state_dict``."""
    for name, parameter in module.named_parameters():
        saved = state.get(prefix + name)
        if isinstance(saved, Tensor) and not saved.ndim and parameter.shape == (1,):
            state[prefix + name] = saved.reshape(1)
