"""Read a folder of class folders."""

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from nearfar.data.listing import Found, first_of, loose_files, picture_endings, pictures_under, subfolders
from nearfar.data.table import Table
from nearfar.errors import DataError
from nearfar.printable import printable

log = logging.getLogger("nearfar")

Classes = Literal["top", "leaf"]
PARTS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
    "query": "test",
    "gallery": "test",
}


def part_of(name: str) -> str | None:
    """Return the part that a folder or a value of the column ``split`` names, whatever its case, or None."""
    return PARTS.get(name.strip().lower())


def read_folder(root: Path, classes: Classes = "top") -> Table:
    """Read ``root/<class>/<image>``, or ``root/<part>/<class>/<image>`` with parts as in ``PARTS``.

    Classes are the class folders in ASCII order; images may lie deeper inside them. Links are followed, names
    that begin with a dot are passed over, and what else is left out is logged.

    Args:
        root: the folder.
        classes: "top" makes a class of each folder inside; "leaf" of each folder that holds images itself,
            named by its path, however deep it lies.

    Raises:
        DataError: if no image of any class is found, or parts and classes cannot be told apart.
    """
    root = Path(os.path.abspath(root))
    folders = subfolders(root)
    parts = [folder for folder in folders if part_of(folder)]
    divided = [part for part in parts if subfolders(root / part)]
    if divided and len(parts) < len(folders):
        strange = next(folder for folder in folders if folder not in parts)
        raise DataError(
            f"'{root}' mixes parts ('{divided[0]}') and class folders ('{strange}'); "
            "move the class folders into the parts, or the parts elsewhere."
        )
    if parts and len(parts) == len(folders):
        return read_parts(root, parts, classes)
    for part in parts:
        log.warning(
            "%s: the folder '%s' has no class folders in it and is read as a class like the others.",
            printable(root),
            printable(part),
        )
    loose = loose_files(root)
    found = {folder: pictures_under(root / folder, inside=[root]) for folder in folders}
    if not any(each.pictures for each in found.values()):
        raise DataError(nothing_found(root, folders, loose, list(found.values())))
    tell(root, [loose, *found.values()])
    tell_loose(root, loose)
    of_class = classes_of(root, found, classes)
    check_once(root, of_class, linked=any(each.linked for each in found.values()))
    paths, labels, names = number(root, of_class)
    return Table(paths, labels, names, source=str(root), name=printable(root.name))


def read_parts(root: Path, parts: list[str], classes: Classes) -> Table:
    """Read a folder of parts, each a folder of class folders; a class may occur in more than one part."""
    check_parts(root, parts)
    of_class: dict[str, list[str]] = {}
    part_of_path: dict[str, str] = {}
    all_found = [loose_files(root)]
    tell_loose(root, all_found[0])
    for part in parts:
        loose = loose_files(root / part)
        found = {
            folder: pictures_under(root / part / folder, inside=[root, root / part])
            for folder in subfolders(root / part)
        }
        all_found += [loose, *found.values()]
        tell_loose(root / part, loose)
        for name, images in classes_of(root / part, found, classes).items():
            of_class.setdefault(name, []).extend(images)
            part_of_path |= dict.fromkeys(images, part)
    if not any(of_class.values()):
        raise DataError(nothing_found(root, sorted(of_class) or parts, Found(), all_found))
    tell(root, all_found)
    check_once(root, of_class, linked=any(each.linked for each in all_found))
    paths, labels, names = number(root, of_class)
    role = np.array([part_of_path[path].strip().lower() for path in paths])
    columns = {"split": np.array([PARTS[name] for name in role])}
    roles = {"query", "gallery"} & set(role.tolist())
    if roles:
        missing = {"query", "gallery"} - roles
        if missing:
            raise DataError(
                f"'{root}' has no folder '{missing.pop()}'; a search needs both 'query' and 'gallery'."
            )
        columns |= {"is_query": role == "query", "is_gallery": role == "gallery"}
    return Table(paths, labels, names, columns, source=str(root), name=printable(root.name))


def check_parts(root: Path, parts: list[str]) -> None:
    """Refuse two folders for one part, and images that lie in a part without a class."""
    meant: dict[str, str] = {}
    for part in parts:
        role = part.strip().lower()
        role = role if role in ("query", "gallery") else PARTS[role]
        other = meant.setdefault(role, part)
        if other != part:
            raise DataError(
                f"'{root}' has two folders for one part, '{other}' and '{part}'; put their classes into one, "
                "or move one elsewhere."
            )
    for part in parts:
        loose = loose_files(root / part).pictures
        if loose and not subfolders(root / part):
            raise DataError(
                f"'{root / part}' holds {len(loose):,} images ('{os.path.basename(loose[0])}', …) and no "
                "class folder; put the images of each class in a folder of their own inside it, or move it "
                "elsewhere."
            )


def classes_of(root: Path, found: dict[str, Found], classes: Classes) -> dict[str, list[str]]:
    """Return the images of each class; that folders inside top folders are no classes is told."""
    if classes not in ("top", "leaf"):
        raise DataError(f"classes are the 'top' folders or each 'leaf'; got {classes!r}.")
    leaves: dict[str, list[str]] = {}
    for each in found.values():
        for path in each.pictures:
            leaves.setdefault(os.path.relpath(os.path.dirname(path), root).replace(os.sep, "/"), []).append(
                path
            )
    if classes == "leaf":
        return leaves
    holding = sum(1 for each in found.values() if each.pictures)
    if len(leaves) > holding:
        log.warning(
            "%s: its %s folders are the classes, and the %s folders with images in and below them are not "
            "told apart; set data.classes = 'leaf' (--leaves of `nearfar data`) to make each of these a "
            "class.",
            printable(root),
            f"{holding:,}",
            f"{len(leaves):,}",
        )
    return {folder: each.pictures for folder, each in found.items()}


def check_once(root: Path, of_class: dict[str, list[str]], *, linked: bool) -> None:
    """Refuse an image that links put into two classes; one that they put into a class again is logged."""
    if not linked:
        return
    first: dict[str, tuple[str, str]] = {}
    repeated = []
    for name, images in of_class.items():
        for path in images:
            before, label = first.setdefault(os.path.realpath(path), (path, name))
            if label != name:
                raise DataError(
                    f"'{path}' and '{before}' are one file, in the classes '{name}' and '{label}'; remove a "
                    "link, since an image has one label."
                )
            if before != path:
                repeated.append(path)
    if repeated:
        log.warning(
            "%s: images that links list again: %s; each is kept, and finds itself; remove the links.",
            printable(root),
            first_of(os.path.relpath(path, root) for path in repeated),
        )


def tell(root: Path, found: list[Found]) -> None:
    """Log what was left out."""
    whole = Found()
    for each in found:
        whole.others += each.others
        whole.broken += each.broken
        whole.again += each.again
    whole.broken = [os.path.relpath(path, root) for path in whole.broken]
    whole.again = [os.path.relpath(path, root) for path in whole.again]
    for sentence in whole.sentences():
        log.warning("%s: %s.", printable(root), sentence)


def tell_loose(folder: Path, loose: Found) -> None:
    """Log the images that lie beside the class folders."""
    if loose.pictures:
        names = first_of(map(os.path.basename, loose.pictures))
        log.warning("%s: images outside any class folder are left out: %s.", printable(folder), names)


def number(root: Path, found: dict[str, list[str]]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return paths, labels and classes of the images found in each class folder; an empty one is logged."""
    empty = sorted(folder for folder, images in found.items() if not images)
    if empty:
        log.warning("%s: folders that hold no image are left out: %s.", printable(root), first_of(empty))
    folders = sorted(folder for folder, images in found.items() if images)
    paths = np.array([path for folder in folders for path in found[folder]], dtype=object)
    labels = np.repeat(np.arange(len(folders)), [len(found[folder]) for folder in folders])
    return paths, labels.astype(np.int64), tuple(map(class_name, folders))


def class_name(folder: str) -> str:
    """Return the name of a class folder; a byte in it that is not UTF-8 is written as an escape."""
    return folder.encode(errors="surrogateescape").decode(errors="backslashreplace")


def nothing_found(root: Path, folders: list[str], loose: Found, found: list[Found]) -> str:
    """Return the sentence for a folder without an image of any class."""
    if loose.pictures:
        return (
            f"'{root}' holds {len(loose.pictures)} images ('{os.path.basename(loose.pictures[0])}', …) and "
            "no class folder with images; put the images of each class in a folder of their own."
        )
    if folders:
        counts = sum((each.others for each in found), Counter[str]())
        others = "; found " + ", ".join(f"{end} {n:,}" for end, n in counts.most_common(8)) if counts else ""
        usual = [end for end in (".jpg", ".png", ".webp", ".tif", ".bmp") if end in picture_endings()]
        return (
            f"'{root}' holds {len(folders)} folders ('{folders[0]}', …) but no image in them; expected files "
            f"ending in {', '.join(usual)} or another ending that Pillow reads{others}."
        )
    inside = [name for name in sorted(os.listdir(root)) if not name.startswith(".")]
    if inside:
        return (
            f"'{root}' holds no image and no folder (but '{inside[0]}', …); put the images of each class in "
            "a folder of their own inside it."
        )
    return f"'{root}' is empty; put the images of each class in a folder of their own inside it."
