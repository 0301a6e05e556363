"""The run folder: which files it holds, and whether a run may begin or go on there."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nearfar.config import Config
from nearfar.data import Unreadable
from nearfar.errors import CheckpointError
from nearfar.files import write_atomically
from nearfar.train.checkpoint import FILE, first_difference, load_checkpoint

CONFIG = "config.toml"
LOG = "log.jsonl"
LAST = "last"
BEST = "best"
MODEL = "model"
UNREADABLE = "unreadable.txt"

# Where and how fast a run computes may change; what it computes may not.
FREE = (
    ("data", "workers"),
    ("data", "memory_limit"),
    ("memory", "sharded"),
    ("train", "checkpoint_minutes"),
    ("train", "device"),
)


def open_folder(folder: Path, config: Config, resume: bool) -> dict[str, Any] | None:
    """Look whether a run may begin or go on here; return the checkpoint to go on from, or None to begin.

    A run that was killed before its first checkpoint begins anew.

    Raises:
        CheckpointError: if a run is there and ``resume`` is off, none is there and it is on, or the one
            there has another configuration.
    """
    there = any((folder / name).exists() for name in (CONFIG, LOG, LAST))
    if there and not resume:
        raise CheckpointError(
            f"{folder} already holds a run; go on with: nearfar train {folder} --resume "
            "or choose another folder."
        )
    if not there and resume:
        raise CheckpointError(f"{folder} holds no run to resume; leave --resume out to begin one.")
    state = load_checkpoint(folder / LAST) if (folder / LAST / FILE).exists() else None
    if state is not None:
        _compare(folder, state["config"], config)
    elif (folder / CONFIG).exists():
        _compare(folder, tomllib.loads((folder / CONFIG).read_text(encoding="utf-8")), config)
    return state


def begin(folder: Path, config: Config, unreadable: Sequence[Unreadable]) -> None:
    """Write down the configuration of a run, and which images it does without."""
    if not (folder / CONFIG).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / CONFIG, config.to_toml())
    if unreadable:
        lines = [f"{image.path}: {image.reason}" for image in unreadable]
        write_atomically(folder / UNREADABLE, "\n".join(lines) + "\n")


def _compare(folder: Path, before: dict[str, Any], now: Config) -> None:
    difference = first_difference(_decisive(before), _decisive(now.to_dict()))
    if difference is None:
        return
    key, old, new = difference
    raise CheckpointError(
        f"{folder} was begun with {key} = {_shown(old)} but now it is {_shown(new)}; resume with the same "
        "configuration or choose another folder."
    )


def _decisive(config: dict[str, Any]) -> dict[str, Any]:
    return {
        section: {key: value for key, value in values.items() if (section, key) not in FREE}
        for section, values in config.items()
    }


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)
