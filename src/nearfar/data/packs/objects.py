"""The pack `objects`: 175 models in the public domain, 8 views each; the pictures ship inside nearfar.

`packs/objects.py` of the source repository makes the shipped file.
"""

import zipfile
from importlib.resources import as_file, files
from pathlib import Path

from nearfar.data.packs.registry import Pack, Progress
from nearfar.errors import DataError


def build(pack: Pack, folder: Path, progress: Progress | None) -> list[str]:
    """Unpack the shipped pictures into class folders.

    Returns:
        The credits, a line each.
    """
    with (
        as_file(files("nearfar.data.packs") / "objects.zip") as shipped,
        zipfile.ZipFile(shipped) as archive,
    ):
        pictures = [name for name in archive.namelist() if name.endswith(".png")]
        if len(pictures) != pack.images:
            raise DataError(
                f"{shipped} holds {len(pictures)} pictures and not {pack.images}; install nearfar again."
            )
        for done, name in enumerate(pictures, start=1):
            archive.extract(name, folder)
            if progress is not None:
                progress(done, len(pictures), "unpacking")
        return archive.read("CREDITS.txt").decode("utf-8").splitlines()
