"""Packs in the cache: built once, whole or not at all, checked, then read as tables."""

import hashlib
import json
import logging
import random
import warnings
from pathlib import Path

import numpy as np

from nearfar.cache import alone, cache_folder, unfinished
from nearfar.data.packs.builders import builder_of
from nearfar.data.packs.registry import Pack, Progress, describe
from nearfar.data.table import Table
from nearfar.errors import DataError, require

_index = "pack.json"
_log = logging.getLogger("nearfar")


def load(name: str, *, folder: str | Path | None = None, progress: Progress | None = None) -> Table:
    """The images of a pack as a table, built when they are not there yet.

    The column ``split`` holds "train" for one half of the classes and "test" for the other: the sorted names,
    shuffled with seed 0, first half and second half.

    Args:
        name: a name of ``names()``.
        folder: where packs are kept; $NEARFAR_CACHE or ~/.cache/nearfar unless given.
        progress: called with (done, total, what) while the pack is built.

    Raises:
        DataError: for an unknown name, a missing builder or program, or a failed download.
    """
    pack = describe(name)
    place = (Path(folder) if folder is not None else cache_folder()).absolute() / pack.folder
    index = _read_index(place)
    if index is None:
        with alone(place):
            index = _read_index(place)  # perhaps another process has made it meanwhile
            if index is None:
                _build(pack, place, progress)
                index = _read_index(place)
                assert index is not None
    if index["checksum"] != pack.checksum:
        warnings.warn(
            f"the images of the pack {name!r} in {place} differ from the published ones (another version of "
            "a library or package made them); do not compare results on them with published results.",
            stacklevel=2,
        )
    return _table(pack, place, index["files"])


def checksum(folder: Path) -> str:
    """sha256 over the sorted relative names and the pixels of the PNG files in class folders of ``folder``.

    Pixels and not bytes: another version of the PNG library packs the same picture differently.
    """
    from PIL import Image

    digest = hashlib.sha256()
    for path in sorted(folder.glob("*/*.png"), key=lambda path: path.relative_to(folder).as_posix()):
        with Image.open(path) as picture:
            pixels = picture.convert("RGB")
        digest.update(f"{path.relative_to(folder).as_posix()}\0{pixels.size}\0".encode())
        digest.update(pixels.tobytes())
    return digest.hexdigest()


def halves(classes: list[str]) -> dict[str, str]:
    """ "train" or "test" for each class: disjoint halves, the same on every machine."""
    order = sorted(classes)
    random.Random(0).shuffle(order)
    half = len(order) // 2
    return {name: "train" if place < half else "test" for place, name in enumerate(order)}


def _build(pack: Pack, place: Path, progress: Progress | None) -> None:
    require("PIL", "train")
    builder = builder_of(pack)
    _log.info("making the pack %s in %s: %s. Licence: %s.", pack.name, place, pack.source, pack.licence)
    if progress is not None:
        progress(0, pack.classes, "fetching")
    with unfinished(place) as draft:
        credits: list[str] = builder.build(pack, draft, progress)
        files = {
            folder.name: sorted(path.name for path in folder.glob("*.png"))
            for folder in sorted(draft.iterdir())
            if folder.is_dir()
        }
        head = [
            f"{pack.name} {pack.version}: {pack.title}",
            f"Licence: {pack.licence}",
            f"From: {pack.source}",
        ]
        (draft / "CREDITS.txt").write_text("\n".join([*head, "", *credits, ""]), encoding="utf-8")
        written = {"name": pack.name, "version": pack.version, "checksum": checksum(draft), "files": files}
        (draft / _index).write_text(json.dumps(written), encoding="utf-8")


def _read_index(place: Path) -> dict | None:
    """The index of a finished pack whose files are all there; None when it must be (re)built."""
    path = place / _index
    if not path.is_file():
        return None
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        there = {
            name: sorted(file.name for file in (place / name).glob("*.png"))
            for name in index["files"]
            if (place / name).is_dir()
        }
        return index if there == index["files"] else None
    except (json.JSONDecodeError, KeyError) as error:
        raise DataError(f"{path} is damaged; delete the folder {place} and try again.") from error


def _table(pack: Pack, place: Path, files: dict[str, list[str]]) -> Table:
    classes = sorted(files)
    half = halves(classes)
    rows = [
        (str(place / name / file), label, half[name])
        for label, name in enumerate(classes)
        for file in files[name]
    ]
    paths, labels, split = zip(*rows, strict=True)
    return Table(
        path=np.array(paths, dtype=object),
        label=np.array(labels, dtype=np.int64),
        classes=tuple(classes),
        columns={"split": np.array(split, dtype=object)},
        source=pack.source,
        name=pack.name,
    )
