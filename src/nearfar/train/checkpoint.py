"""Checkpoints: one file of tensors and plain containers that is either the old one or the whole new one."""

import errno
import io
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nearfar.errors import CheckpointError
from nearfar.files import write_atomically

FILE = "checkpoint.pt"
FORMAT = 1


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` to ``folder/checkpoint.pt``; the one before stays until the new one stands on the disk.

    Raises:
        CheckpointError: if the device is full; the checkpoint before is intact.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    with no_space_in_one_sentence(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE, buffer.getvalue())


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote, tensors on the CPU. Nothing in the file is executed.

    Raises:
        CheckpointError: if there is none or it cannot be read.
    """
    file = folder / FILE
    if not file.exists():
        raise CheckpointError(f"{folder} holds no checkpoint.")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{file} is damaged or was not written by nearfar; remove {folder} to begin the run again."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} was not written by this version of nearfar; begin again in another folder."
        )
    return state


@contextmanager
def no_space_in_one_sentence(folder: Path) -> Iterator[None]:
    """Turn "no space left on device" into a sentence with the folder in it.

    Raises:
        CheckpointError: for a full device or a full quota.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CheckpointError(
            f"no space left on the device of {folder}; what was saved before is intact. Make room and go on "
            "with --resume."
        ) from error


def first_difference(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> tuple[str, Any, Any] | None:
    """Return the first key whose values differ, with both values, or None when all are equal."""
    for key in [*before, *(k for k in now if k not in before)]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = first_difference(old, new, f"{prefix}{key}.")
            if inner:
                return inner
        elif old != new:
            return f"{prefix}{key}", old, new
    return None
