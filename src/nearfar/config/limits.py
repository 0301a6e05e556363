"""Values that have the right kind and can only be a mistake: what a configuration of one's own may hold."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nearfar.config.sections import AddedLoss, Loss
from nearfar.errors import ConfigError, shortened

if TYPE_CHECKING:
    from nearfar.config.config import Config

WHOLE = 2**63 - 1
"""The largest whole number of TOML."""
SETTING = 1e6
"""Nothing that a loss or a mining rule compares with similarities is larger."""
# The least and the most of keys whose kind says too little; a section names its other limits itself.
LIMITS: dict[str, dict[str, tuple[float, float]]] = {
    "data": {"split_seed": (0, WHOLE), "workers": (0, 1024), "memory_limit": (0, 2**50)},
    "augment": {"ratio": (0.01, 100)},
    "model": {"dim": (1, 2**16), "size": (8, 2**13)},
    "memory": {"size": (0, 10**9), "start_after": (0, 10**9), "weight": (0, 1e6)},
    "batch": {"classes_per_batch": (2, 10**6), "images_per_class": (2, 10**6), "chunk": (0, 10**9)},
    "offline": {"every": (1, 10**9), "most": (4, 10**9), "margin": (0, 2)},
    "optimizer": {
        "lr": (0, 100),
        "head_lr": (0, 100),
        "loss_lr": (0, 100),
        "weight_decay": (0, 100),
        "warmup_epochs": (0, 10**6),
        "head_only_epochs": (0, 10**6),
        "step_epochs": (1, 10**6),
        "step_size": (1, 10**9),
        "step_values": (1, 10**9),
        "power": (0, 100),
        "clip_norm": (0, 1e9),
    },
    "train": {
        "epochs": (1, 10**6),
        "steps": (1, 10**9),
        "validate_every": (1, 10**6),
        "seed": (0, WHOLE),
        "checkpoint_minutes": (0, 10**6),
    },
}


def check_limits(config: "Config") -> None:
    """Raise where a number can only be a mistake.

    Raises:
        ConfigError: with the key and its limits.
    """
    for section, limits in LIMITS.items():
        values = getattr(config, section)
        for key, (least, most) in limits.items():
            _check(f"{section}.{key}", getattr(values, key), least, most)
    _check_loss("loss", config.loss)
    for number, added in enumerate(config.loss.add):
        _check(f"loss.add.{number}.weight", added.weight, -SETTING, SETTING)
        _check_loss(f"loss.add.{number}", added)
    steps, later = config.train.steps, config.memory.start_after
    if steps is not None and config.memory.size > 0 and later >= steps:
        raise ConfigError(
            f"memory.start_after = {later} leaves nothing of train.steps = {steps}; set it lower."
        )


def _check_loss(place: str, loss: Loss | AddedLoss) -> None:
    _check(f"{place}.tilt", loss.tilt, -1e3, 1e3)
    for key, value in loss.settings.items():
        _check(f"{place}.{key}", value, -SETTING, SETTING)
    if isinstance(loss.mining, dict):
        for key, value in loss.mining.items():
            _check(f"{place}.mining.{key}", value, *((0, WHOLE) if key == "seed" else (-SETTING, SETTING)))


def _check(key: str, value: Any, least: float, most: float) -> None:
    for number in _numbers(value):
        if not least <= number <= most:
            raise ConfigError(
                f"{key} = {shortened(number)} can only be a mistake; expected a number from "
                f"{_shown(least)} to {_shown(most)}."
            )


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)


def _shown(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"
