"""Checkpoints: one file of tensors and plain containers, whole and as it was written, or not read at all.

The file is an archive of `torch.save` whose comment is a checksum of all its bytes; inside, each tensor has
one by name. So a flipped bit anywhere is noticed, and so is a file that was put together anew with two
tensors exchanged.
"""

import errno
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nearfar.checksum import PLAIN, checksums, damaged
from nearfar.errors import CheckpointError
from nearfar.files import write_atomically

FILE = "checkpoint.pt"
PREVIOUS = "previous.pt"
FORMAT = 2
SEAL = b"nearfar "
DIGITS = 8
END_OF_ZIP = b"PK\5\6"
# Compared with what the resumed run has, or no part of what it computes.
UNWATCHED = ("config", "data", "log_size", "format", "checksums")


class DamagedCheckpoint(CheckpointError):
    """A checkpoint that is not what was written; `what` says where."""

    def __init__(self, file: Path, what: str) -> None:
        self.file, self.what = file, what
        super().__init__(f"{file} is damaged or was not written by nearfar: {what}.")


def save_checkpoint(folder: Path, state: Mapping[str, Any], *, keep: bool = False) -> None:
    """Write ``state`` to ``folder/checkpoint.pt``; the one before stays until the new one stands on the disk.

    Args:
        folder: gets the file.
        state: tensors in plain containers.
        keep: let the one before stay after that too, as ``folder/previous.pt``.

    Raises:
        CheckpointError: if the device is full; the checkpoint before is intact.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state, "checksums": checksums(_watched(state))}, buffer)
    content = buffer.getbuffer()
    content[-2:] = struct.pack("<H", len(SEAL) + DIGITS)  # the length of the archive's comment
    with no_space_in_one_sentence(folder):
        folder.mkdir(parents=True, exist_ok=True)
        previous = folder / PREVIOUS if keep else None
        digits = _digits(zlib.crc32(SEAL, zlib.crc32(content)))
        write_atomically(folder / FILE, content, SEAL, digits, previous=previous)


def load_checkpoint(folder: Path, name: str = FILE) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote, tensors on the CPU. Nothing in the file is executed.

    Raises:
        DamagedCheckpoint: if it is not what was written.
        CheckpointError: if there is none, or it is of another version.
    """
    file = folder / name
    if not file.exists():
        raise CheckpointError(f"{folder} holds no checkpoint.")
    if _is_sealed(file):
        _check_seal(file)
    else:
        _check_archive(file)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what is no checkpoint can make the reader raise nearly anything
        raise DamagedCheckpoint(file, "it cannot be read") from error
    known = state.get("format") if isinstance(state, dict) else None
    if known not in (1, FORMAT):
        raise CheckpointError(
            f"{file} was not written by this version of nearfar; begin again in another folder."
        )
    if known == FORMAT:
        wrong = damaged(_watched(state), state.get("checksums", {}))
        if wrong:
            where = "its numbers are" if wrong[0] == PLAIN else f"{wrong[0]!r} is"
            raise DamagedCheckpoint(file, f"{where} not what was written")
    return state


def _watched(state: Mapping[str, Any]) -> dict[str, Any]:
    watched = {key: value for key, value in state.items() if key not in UNWATCHED}
    if "progress" in watched:
        watched["progress"] = {key: value for key, value in watched["progress"].items() if key != "seconds"}
    return watched


def _digits(value: int) -> bytes:
    return f"{value:0{DIGITS}x}".encode()


def _is_sealed(file: Path) -> bool:
    """Whether the file claims to be ours; what torch alone wrote ends as an archive without a comment."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 22))
        end = opened.read()
    return not (end.startswith(END_OF_ZIP) and end.endswith(b"\0\0"))


def _check_seal(file: Path) -> None:
    left, found = file.stat().st_size - DIGITS, 0
    with file.open("rb") as opened:
        while left > 0 and (some := opened.read(min(left, 2**20))):
            left, found = left - len(some), zlib.crc32(some, found)
        if left or opened.read() != _digits(found):
            raise DamagedCheckpoint(file, "its bytes are not those that were written")


def _check_archive(file: Path) -> None:
    """Check the checksums of the archive itself, for a file of an earlier version."""
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except Exception as error:  # as above
        raise DamagedCheckpoint(file, "it cannot be read") from error
    if broken is not None:
        raise DamagedCheckpoint(file, f"{broken!r} in it is not what was written")


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
