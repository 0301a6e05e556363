"""Files that are never half written."""

import os
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` so that a reader finds either the old file or the whole new one.

    The content goes to ``<path>.tmp`` first, is forced to the disk and then takes the place of ``path``. When
    anything fails, no space left included, ``path`` is as it was and the temporary file is gone.

    Raises:
        OSError: if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
