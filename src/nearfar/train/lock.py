"""One training at a time in a folder, by a lock that ends with its process, however that ends."""

import errno
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from nearfar.errors import CheckpointError

LOCK = "lock"
FAR = 2**30
"""Windows lets nobody read what is locked, so the byte that is locked lies behind the text."""

log = logging.getLogger("nearfar")
_held: set[tuple[int, Path]] = set()
_guard = threading.Lock()


class FolderTaken(CheckpointError):
    """Another training writes to this folder now."""


@contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Keep the folder for this training; make it, and remove it again if it is left empty.

    The system frees the lock of a process that is gone, so that a file left behind locks nothing.

    Raises:
        FolderTaken: if another training has it, of this process or of another.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    key = (os.getpid(), folder.resolve())
    with _guard:
        if key in _held:
            raise _refusal(folder, f"process {os.getpid()} on {socket.gethostname()}")
        _held.add(key)
    try:
        file = _acquire(folder)
        try:
            yield
        finally:
            _release(folder / LOCK, file)
    finally:
        _held.discard(key)
        with suppress(OSError):
            for place in made:
                place.rmdir()


def _acquire(folder: Path) -> IO[bytes]:
    path = folder / LOCK
    while True:
        file = path.open("a+b")
        if not _lock(file):
            file.seek(0)
            owner = file.read().decode(errors="replace").strip()
            file.close()
            raise _refusal(folder, owner or "another process")
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # it was removed by the training before, just now
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    file.flush()
    return file


def _release(path: Path, file: IO[bytes]) -> None:
    if sys.platform == "win32":  # which removes no open file
        file.close()
    with suppress(OSError):
        path.unlink()
    file.close()


def _lock(file: IO[bytes]) -> bool:
    """Try to lock; the lock belongs to this process and not to those that it starts, as readers of images."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(FAR)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
            raise
        log.warning("%s cannot be locked (%s): start no second training there.", file.name, error.strerror)
    return True


def _refusal(folder: Path, owner: str) -> FolderTaken:
    return FolderTaken(f"{folder} is being trained in by {owner}; wait for it or choose another folder.")
