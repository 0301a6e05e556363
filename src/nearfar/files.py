"""Files that are never half written."""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path


def write_atomically(
    path: str | Path, *content: bytes | memoryview | str, previous: str | Path | None = None
) -> None:
    """Write ``content`` to ``path`` so that a reader finds either the old file or the whole new one.

    The content goes to ``<path>.tmp`` first, is forced to the disk and then takes the place of ``path``; the
    folder is forced to the disk too, so that the new file is still there when the power goes. When anything
    fails before that, no space left included, ``path`` is as it was and the temporary file is gone.

    Args:
        path: the file.
        content: its parts, one after the other.
        previous: the name under which the old file is kept, in the same folder.

    Raises:
        OSError: if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            for part in content:
                file.write(part.encode() if isinstance(part, str) else part)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            _keep(path, Path(previous))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, where the system can: Windows opens no folders."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
            raise
    finally:
        os.close(opened)


def _keep(path: Path, previous: Path) -> None:
    """Give the file a second name; at every moment ``path`` is there, and a whole ``previous`` if ever."""
    link = previous.with_name(previous.name + ".tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without a second name for a file
        shutil.copyfile(path, link)
    try:
        link.replace(previous)
    except BaseException:
        with suppress(OSError):
            link.unlink(missing_ok=True)
        raise
