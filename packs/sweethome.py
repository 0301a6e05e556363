"""The 3-D models of Debian's `sweethome3d-furniture`: furniture, appliances, vehicles, things of the house.

Five libraries by different makers, each a zip with a catalogue (`PluginFurnitureCatalog.properties`) and OBJ
models. One of them, `BlendSwap-CC-0`, is in the public domain.
"""

import re
import zlib
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from packs import fetch
from packs.mesh import Archive, Mesh, read_mesh

package = "sweethome3d-furniture"
licences = {
    "BlendSwap-CC-0": "CC0-1.0",
    "BlendSwap-CC-BY": "CC-BY-3.0",
    "KatorLegaz": "CC-BY-3.0-US",
    "Reallusion": "CC-BY-3.0-US",
    "Scopia": "CC-BY-3.0",
}
_place = "usr/share/sweethome3d/furniture"


@dataclass(frozen=True)
class Model:
    """One entry of a catalogue."""

    library: str
    identifier: str
    title: str
    category: str
    creator: str
    path: str

    @property
    def seed(self) -> int:
        """A number that depends on the model alone, so that adding models changes no other picture."""
        return zlib.crc32(f"{self.library}/{self.identifier}".encode())


def slug(words: str) -> str:
    """Lower-case words joined by hyphens: ``Table (low)`` → ``table-low``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", words)
    return re.sub(r"[^a-z0-9]+", "-", spaced.lower()).strip("-")


def folder(pack: str) -> Path:
    """Where the libraries lie, downloaded when they are not there yet."""
    return fetch.debian(package, (_place, f"usr/share/doc/{package}/copyright"), pack=pack) / _place


def libraries_in(folder: Path) -> list[Path]:
    """The five libraries, in the order of their names."""
    return [folder / f"{name}.sh3f" for name in licences]


def models(library: Path, wanted: Container[Model]) -> Iterator[tuple[Model, Mesh]]:
    """The wanted models of a library that have something to draw, in the order of its catalogue."""
    archive = Archive(library)
    for model in catalogue(archive, library.stem):
        if model not in wanted:
            continue
        path = archive.find(model.path)
        mesh = read_mesh(archive, path) if path else None
        if mesh is not None:
            yield model, mesh


def catalogue(archive: Archive, library: str) -> list[Model]:
    """The entries of the catalogue in ``archive``."""
    entries: dict[int, dict[str, str]] = {}
    for line in archive.text("PluginFurnitureCatalog.properties").splitlines():
        found = re.match(r"(\w+)#(\d+)=(.*)", line)
        if found:
            entries.setdefault(int(found[2]), {})[found[1]] = _plain(found[3])
    return [
        Model(
            library=library,
            identifier=entry["id"].split("#")[-1],
            title=entry["name"],
            category=entry.get("category", "Miscellaneous"),
            creator=entry.get("creator", ""),
            path=entry["model"].lstrip("/"),
        )
        for _, entry in sorted(entries.items())
        if "model" in entry
    ]


def _plain(value: str) -> str:
    """Undo the ``\\u00e9`` escapes of Java's property files."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), value).strip()


def class_names(chosen: list[Path]) -> dict[Model, str]:
    """A name for each model of some libraries: its title, numbered where several have the same."""
    entries = [model for path in chosen for model in catalogue(Archive(path), path.stem)]
    titles = [slug(model.title) for model in entries]
    repeated = {title for title, times in Counter(titles).items() if times > 1}
    seen: Counter[str] = Counter()
    names = {}
    for model, title in zip(entries, titles, strict=True):
        seen[title] += 1
        names[model] = f"{title}-{seen[title]}" if title in repeated else title
    return names


def credits(chosen: list[Path]) -> list[str]:
    """Who made each model, and under which licence, a line each."""
    lines = (
        (name, model.title, model.creator or "unknown", licences[model.library], model.library)
        for model, name in class_names(chosen).items()
    )
    return [
        f"{name}: {title}, by {creator}, {licence}, from {library}"
        for name, title, creator, licence, library in sorted(lines)
    ]
