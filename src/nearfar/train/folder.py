"""The run folder: which files it holds, and whether a run may begin or go on there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nearfar.config import Config
from nearfar.data import Unreadable
from nearfar.errors import CheckpointError
from nearfar.files import write_atomically
from nearfar.models.saved import read_model
from nearfar.train.checkpoint import (
    FILE,
    PREVIOUS,
    DamagedCheckpoint,
    first_difference,
    load_checkpoint,
)

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


def open_folder(
    folder: Path, config: Config, resume: bool, *, from_previous: bool = False
) -> dict[str, Any] | None:
    """Look whether a run may begin or go on here; return the checkpoint to go on from, or None to begin.

    A run that ended before its first checkpoint begins anew, with other settings if these are given now.

    Args:
        folder: of the run.
        config: all that decides it.
        resume: go on with the run that is there.
        from_previous: from the checkpoint before the last, which then takes the last one's place.

    Raises:
        CheckpointError: if a run is there and ``resume`` is off, none is there and it is on, the one there
            has another configuration, or its checkpoint is damaged.
    """
    there = any((folder / name).exists() for name in (CONFIG, LOG, LAST))
    if there and not resume:
        raise CheckpointError(
            f"{folder} already holds a run; go on with: nearfar train {folder} --resume "
            "or choose another folder."
        )
    if not there and resume:
        raise CheckpointError(f"{folder} holds no run to resume; leave --resume out to begin one.")
    state = _previous(folder) if from_previous else _last(folder)
    if state is not None:
        _compare(folder, state["config"], config)
    if from_previous:
        (folder / LAST / PREVIOUS).replace(folder / LAST / FILE)
    return state


def damage_of_best(folder: Path) -> str | None:
    """Say what is damaged of the best epoch that a run has kept so far; training does not need it."""
    try:
        if (folder / BEST / FILE).exists():
            load_checkpoint(folder / BEST)
        if (folder / MODEL).is_dir():
            read_model(folder / MODEL)
    except CheckpointError as error:
        return f"{str(error).rstrip('.')}; it is written anew only if a later epoch is the best one."
    return None


def _last(folder: Path) -> dict[str, Any] | None:
    if not (folder / LAST / FILE).exists() and not (folder / LAST / PREVIOUS).exists():
        return None
    try:
        if not (folder / LAST / FILE).exists():
            raise DamagedCheckpoint(folder / LAST / FILE, "it is gone")
        return _state_of_a_run(folder / LAST / FILE)
    except DamagedCheckpoint as error:
        raise CheckpointError(f"{str(error).rstrip('.')}; {_way_on(folder)}") from error


def _previous(folder: Path) -> dict[str, Any]:
    last, previous = folder / LAST / FILE, folder / LAST / PREVIOUS
    if not previous.exists():
        raise CheckpointError(f"{folder / LAST} holds no checkpoint before the last one.")
    try:
        _state_of_a_run(last)
    except CheckpointError:
        return _state_of_a_run(previous)
    raise CheckpointError(f"{last} is whole; go on from it with: nearfar train {folder} --resume")


def _state_of_a_run(file: Path) -> dict[str, Any]:
    state = load_checkpoint(file.parent, file.name)
    if "progress" not in state:
        raise DamagedCheckpoint(file, "it is a model without the state of a run")
    return state


def _way_on(folder: Path) -> str:
    """Say how a run goes on whose last checkpoint is damaged."""
    again = f"begin the run anew in another folder with: nearfar train {folder}"
    try:
        step = _state_of_a_run(folder / LAST / PREVIOUS)["progress"]["step"]
    except DamagedCheckpoint as error:
        return f"{error.file} is damaged too; {again}"
    except CheckpointError:
        return f"there is none before it; {again}"
    return (
        f"the one before it, {folder / LAST / PREVIOUS} of step {step}, is whole; go on from it with: "
        f"nearfar train {folder} --resume --from-previous"
    )


def begin(folder: Path, config: Config, unreadable: Sequence[Unreadable]) -> None:
    """Write down the configuration of a run, and which images it does without."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / CONFIG).exists() or not (folder / LAST / FILE).exists():
        write_atomically(folder / CONFIG, config.to_toml())
    if unreadable:
        lines = [f"{image.path}: {image.reason}" for image in unreadable]
        write_atomically(folder / UNREADABLE, "\n".join(lines) + "\n")


def forget(folder: Path) -> None:
    """Remove what a run has written that failed before its first step."""
    for name in (CONFIG, LOG, UNREADABLE):
        (folder / name).unlink(missing_ok=True)


def _compare(folder: Path, before: dict[str, Any], now: Config) -> None:
    difference = first_difference(_decisive(_with_new_keys(before, now)), _decisive(now.to_dict()))
    if difference is None:
        return
    key, old, new = difference
    raise CheckpointError(
        f"{folder} was begun with {key} = {_shown(old)} but now it is {_shown(new)}; resume with the same "
        "configuration or choose another folder."
    )


def _with_new_keys(before: dict[str, Any], now: Config) -> dict[str, Any]:
    """Give keys that were not there yet when the run was begun their default, which is what it had."""
    completed = dict(before)
    for name in ("data", "model", "train"):
        fields = type(getattr(now, name)).model_fields
        completed[name] = {key: field.default for key, field in fields.items()} | before.get(name, {})
    return completed


def _decisive(config: dict[str, Any]) -> dict[str, Any]:
    return {
        section: {key: value for key, value in values.items() if (section, key) not in FREE}
        for section, values in config.items()
    }


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)
