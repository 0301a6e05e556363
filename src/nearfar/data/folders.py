"""Read a folder of class folders."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nearfar.data.table import Table
from nearfar.errors import DataError

log = logging.getLogger("nearfar")

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
PARTS = {
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
    "query": "test",
    "gallery": "test",
}


def read_folder(root: Path) -> Table:
    """Read ``root/<class>/<image>``, or ``root/<part>/<class>/<image>`` with parts as in ``PARTS``.

    Classes are the class folders in ASCII order; images may lie deeper inside them. Names that begin with a
    dot are ignored, links to folders are not followed, and what else is left out is logged.

    Raises:
        DataError: if no image of any class is found.
    """
    root = Path(os.path.abspath(root))
    folders = subfolders(root)
    parts = [folder for folder in folders if folder in PARTS and subfolders(root / folder)]
    if parts and len(parts) == len(folders):
        return read_parts(root, parts)
    if parts and any(folder not in PARTS for folder in folders):
        strange = next(folder for folder in folders if folder not in PARTS)
        raise DataError(
            f"'{root}' mixes parts ('{parts[0]}') and class folders ('{strange}'); "
            "move the class folders into the parts, or the parts elsewhere."
        )
    loose = [name for name in sorted(os.listdir(root)) if is_image(name) and (root / name).is_file()]
    found = {folder: list(images_under(root / folder)) for folder in folders}
    if not any(found.values()):
        raise DataError(nothing_found(root, folders, loose))
    if loose:
        log.warning(
            "%s: images outside any class folder are left out: %d ('%s', …).", root, len(loose), loose[0]
        )
    paths, labels, classes = number(root, found)
    return Table(paths, labels, classes, source=str(root), name=root.name)


def read_parts(root: Path, parts: list[str]) -> Table:
    """Read a folder of parts, each a folder of class folders; a class may occur in more than one part."""
    found: dict[str, list[str]] = {}
    part_of: dict[str, str] = {}
    for part in parts:
        for folder in subfolders(root / part):
            images = list(images_under(root / part / folder))
            found.setdefault(folder, []).extend(images)
            part_of |= dict.fromkeys(images, part)
    if not any(found.values()):
        raise DataError(nothing_found(root, sorted(found), []))
    paths, labels, classes = number(root, found)
    part = np.array([part_of[path] for path in paths])
    columns = {"split": np.array([PARTS[name] for name in part])}
    if {"query", "gallery"} & set(parts):
        missing = {"query", "gallery"} - set(parts)
        if missing:
            raise DataError(
                f"'{root}' has no folder '{missing.pop()}'; a search needs both 'query' and 'gallery'."
            )
        columns |= {"is_query": part == "query", "is_gallery": part == "gallery"}
    return Table(paths, labels, classes, columns, source=str(root), name=root.name)


def number(root: Path, found: dict[str, list[str]]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return paths, labels and classes of the images found in each class folder; an empty one is logged."""
    empty = sorted(folder for folder, images in found.items() if not images)
    if empty:
        log.warning("%s: folders that hold no image are left out: %d ('%s', …).", root, len(empty), empty[0])
    classes = tuple(sorted(folder for folder, images in found.items() if images))
    paths = np.array([path for folder in classes for path in found[folder]], dtype=object)
    labels = np.repeat(np.arange(len(classes)), [len(found[folder]) for folder in classes])
    return paths, labels.astype(np.int64), classes


def nothing_found(root: Path, folders: list[str], loose: list[str]) -> str:
    """Return the sentence for a folder without an image of any class."""
    if loose:
        return (
            f"'{root}' holds {len(loose)} images ('{loose[0]}', …) and no class folder with images; "
            "put the images of each class in a folder of their own."
        )
    if folders:
        return (
            f"'{root}' holds {len(folders)} folders ('{folders[0]}', …) but no image in them; "
            f"expected files ending in {', '.join(sorted(IMAGE_ENDINGS))}."
        )
    inside = [name for name in sorted(os.listdir(root)) if not name.startswith(".")]
    if inside:
        return (
            f"'{root}' holds no image and no folder (but '{inside[0]}', …; links are not followed); put the "
            "images of each class in a folder of their own inside it."
        )
    return f"'{root}' is empty; put the images of each class in a folder of their own inside it."


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders inside, in ASCII order, dot folders and links left out."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    return sorted(names)


def images_under(folder: Path) -> Iterator[str]:
    """Yield the paths of all images in and below ``folder``, in ASCII order."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(files) if is_image(name))


def is_image(name: str) -> bool:
    """Return whether a file of this name is taken for an image."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_ENDINGS
