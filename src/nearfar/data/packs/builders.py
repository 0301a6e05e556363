"""What makes a pack: `objects` unpacks what ships; the rest is built by `packs/` of the source repository."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import nearfar
from nearfar.data.packs import objects
from nearfar.data.packs.registry import Pack
from nearfar.errors import DataError

CHECKOUT = Path(nearfar.__file__).parents[2]
"""The source repository, where nearfar runs from one: it holds `src` and `packs`."""


def builders_are_here() -> bool:
    """Whether nearfar runs from its source repository."""
    return (CHECKOUT / "packs" / "__init__.py").is_file()


def builder_of(pack: Pack) -> ModuleType:
    """Return the module whose ``build(pack, folder, progress)`` makes the images of a pack.

    Raises:
        DataError: if it is one of the source repository, and nearfar does not run from there.
    """
    if pack.builder == "objects":
        return objects
    if not builders_are_here():
        raise DataError(
            f"the pack {pack.name!r} is not built yet, and its builder is part of the source repository of "
            "nearfar, not of the installed package; in a checkout of it run: pip install -e '.[all]' && "
            f"nearfar data {pack.name} --build"
        )
    sys.path.insert(0, str(CHECKOUT))  # before any other `packs`
    try:
        return importlib.import_module(f"packs.{pack.builder}")
    finally:
        sys.path.remove(str(CHECKOUT))
