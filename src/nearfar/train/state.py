"""What a checkpoint holds of a run, and how a run takes it up again. No rank is part of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nearfar.config import Config
from nearfar.data.fingerprint import changed_pictures
from nearfar.errors import CheckpointError
from nearfar.losses import load_optimizer_state, optimizer_state
from nearfar.models.saved import fit_weights
from nearfar.train.environment import arithmetic
from nearfar.train.folder import LAST
from nearfar.train.precision import Numerics
from nearfar.train.setup import Parts
from nearfar.train.watch import Watch


@dataclass
class Progress:
    """Where a run stands: all of its state that no module holds."""

    epoch: int = 0
    position: int = 0
    step: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    finished: bool = False


def state_of(
    config: Config,
    parts: Parts,
    *,
    data: str,
    contents: Tensor,
    numerics: Numerics,
    watch: Watch,
    at: Progress,
    log_size: int,
) -> dict[str, Any]:
    """Return all that decides how a run goes on; every rank must call it: what is sharded comes together."""
    return {
        "config": config.to_dict(),
        "data": data,
        "contents": contents,
        "arithmetic": arithmetic(parts.device),
        "numerics": asdict(numerics),
        "embedder": parts.embedder.state_dict(),
        "loss": parts.loss.state_dict(),
        "memory": {} if parts.memory is None else parts.memory.state_dict(),
        "optimizer": optimizer_state(parts.optimizer, parts.loss),
        "sampler": parts.sampler.state_dict(),
        "watch": watch.state_dict(),
        "progress": asdict(at),
        "log_size": log_size,
    }


def take_up(
    config: Config,
    parts: Parts,
    state: Mapping[str, Any],
    *,
    data: str,
    contents: Tensor,
    watch: Watch,
    folder: Path,
) -> Progress:
    """Bring everything to where ``state_of`` saw it, and return where that is.

    Raises:
        CheckpointError: if the images are others, or something does not fit.
    """
    if state["data"] != data:
        raise CheckpointError(
            f"the training images of {config.data.source} are not those that {folder} was begun with; "
            "restore them or begin another run."
        )
    before = state.get("contents", contents)  # a checkpoint of version 0.1.0 knows names alone
    if (changed := changed_pictures(parts.images.table, before.numpy(), contents.numpy())) is not None:
        raise CheckpointError(
            f"training pictures of {config.data.source} have changed since {folder} was begun: {changed}; "
            "restore them or begin another run."
        )
    fit_weights(parts.embedder, state["embedder"], folder / LAST)
    fit_weights(parts.loss, state["loss"], folder / LAST)
    if parts.memory is not None:
        parts.memory.load_state_dict(state["memory"])
    load_optimizer_state(parts.optimizer, parts.loss, state["optimizer"])
    watch.load_state_dict(state["watch"])
    at = Progress(**state["progress"])
    parts.sampler.load_state_dict({**state["sampler"], "epoch": at.epoch, "position": at.position})
    return at
