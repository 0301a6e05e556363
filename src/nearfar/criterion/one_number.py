"""A number that is learned is a parameter of one element: FSDP2's ``fully_shard`` takes no scalars."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nearfar.errors import NearfarError
from nearfar.printable import quoted


def learnable(name: str, value: float | Tensor, classes: int | None) -> nn.Parameter:
    """Return a parameter that begins with ``value``, [1], or with as many of it as there are classes.

    Raises:
        NearfarError: if that is not one finite number.
    """
    if isinstance(value, Tensor) and (value.numel() != 1 or not bool(value.isfinite())):
        raise NearfarError(
            f"{name} is learned and begins with one finite number; got {quoted(value)}. With learn=False it "
            "stays as given."
        )
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
