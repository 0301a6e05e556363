"""Whole numbers that a loss keeps and saves, and that no average of weights may touch: no buffers."""

from functools import partial
from typing import Any

from torch import Tensor, nn


def keep_fixed(module: nn.Module, name: str, value: Tensor | None) -> None:
    """Keep a tensor as a plain attribute that ``state_dict`` has under its name, as a buffer would be."""
    setattr(module, name, value)
    if value is not None:
        module.register_state_dict_post_hook(partial(_save, name))
        module.register_load_state_dict_pre_hook(partial(_load, name))


def _save(name: str, module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    state[prefix + name] = getattr(module, name).clone()


def _load(
    name: str,
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    _metadata: Any,
    strict: bool,
    missing: list[str],
    _unexpected: list[str],
    errors: list[str],
) -> None:
    kept, saved = getattr(module, name), state.pop(prefix + name, None)
    if saved is None:
        missing.extend([prefix + name] if strict else [])
    elif saved.shape != kept.shape:
        errors.append(
            f"{prefix}{name} has {len(saved)} classes but the loss has {len(kept)}; create it with the "
            "classes of the checkpoint."
        )
    else:
        setattr(
            module, name, saved.to(device="cpu" if kept.is_meta else kept.device, dtype=kept.dtype, copy=True)
        )
