"""Which files are pictures: one list for every reader of a folder."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nearfar.errors import require
from nearfar.printable import printable

# Pillow knows these formats by sight only, or starts another program to read them.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def picture_endings() -> frozenset[str]:
    """Return the endings, in lower case, of all formats that Pillow decodes here, plug-ins included."""
    pil = require("PIL.Image", "train")
    known = pil.registered_extensions()
    decoded = {"MPO", *pil.OPEN} - NOT_DECODED  # MPO is opened as the JPEG that it begins with
    return frozenset(ending for ending, kind in known.items() if kind in decoded)


@dataclass
class Found:
    """What lies in and below a folder.

    Attributes:
        pictures: their paths, folder by folder, in ASCII order.
        others: how many files of each other ending.
        broken: links that lead nowhere.
        again: links to folders that are looked into anyway, the links' own among them.
        linked: whether anything was reached through a link.
    """

    pictures: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    linked: bool = False

    def sentences(self) -> list[str]:
        """Return what was left out, a sentence for each kind."""
        told = []
        if self.others:
            counts = ", ".join(f"{printable(end)} {count:,}" for end, count in self.others.most_common(8))
            more = ", …" if len(self.others) > 8 else ""
            told.append(f"files that are no pictures are left out: {self.others.total():,} ({counts}{more})")
        if self.broken:
            told.append(f"links that lead nowhere are left out: {first_of(self.broken)}")
        if self.again:
            told.append(f"links to folders that are read anyway are not followed: {first_of(self.again)}")
        return told


def first_of(names: Iterable[str]) -> str:
    """Return how many names there are and the first of them, printable."""
    names = list(names)
    shown = ", ".join(f"'{printable(name)}'" for name in names[:2])
    return f"{len(names):,} ({shown}{', …' if len(names) > 2 else ''})"


def pictures_under(folder: str | Path, *, inside: Sequence[str | Path] = ()) -> Found:
    """Find the pictures in and below a folder.

    A picture is a file with one of ``picture_endings()``, in any case. Links are followed, but for those to
    folders that are looked into anyway. Names that begin with a dot are passed over, files and folders alike.

    Args:
        folder: where to look.
        inside: the folders of the set that it lies in, the whole set first.
    """
    path = os.fspath(folder)
    above = [_identity(os.stat(each)) for each in (*inside, path)]
    found = Found(linked=any(map(os.path.islink, (path, *inside[1:]))))
    root = os.path.realpath(inside[0] if inside else path)
    if inside and os.path.islink(path) and _lies_in(path, root):
        found.again.append(path)
    else:
        _look(path, above, root, picture_endings(), found)
    return found


def subfolders(folder: str | Path) -> list[str]:
    """Return the names of the folders inside, links to folders too, in ASCII order, dot folders left out."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def loose_files(folder: str | Path) -> Found:
    """Return what lies directly in a folder and not in a folder inside it."""
    found = Found()
    _look(os.fspath(folder), [], "", picture_endings(), found)
    return found


def _look(
    folder: str, above: list[tuple[int, int]], root: str, endings: frozenset[str], found: Found
) -> None:
    """Add what lies in ``folder``, and below it where the identities of it and of those above are given."""
    with os.scandir(folder) as entries:
        inside = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    folders = []
    for entry in inside:
        try:
            status = entry.stat()
        except OSError:  # a link to nothing, or to itself
            found.broken.append(entry.path)
            continue
        if stat.S_ISDIR(status.st_mode):
            folders.append((entry, _identity(status)))
            continue
        ending = os.path.splitext(entry.name)[1].lower()
        if ending in endings and stat.S_ISREG(status.st_mode):
            found.pictures.append(entry.path)
            found.linked |= entry.is_symlink()
        else:
            found.others[ending or "no ending"] += 1
    for entry, identity in folders if above else ():
        if identity in above or (entry.is_symlink() and _lies_in(entry.path, root)):
            found.again.append(entry.path)
            continue
        found.linked |= entry.is_symlink()
        _look(entry.path, [*above, identity], root, endings, found)


def _lies_in(path: str, root: str) -> bool:
    real = os.path.realpath(path)
    return real == root or real.startswith(os.path.join(root, ""))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
