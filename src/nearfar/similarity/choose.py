"""Which backend computes a block: by name, or by size and device."""

import logging
from functools import cache

from torch.compiler import is_compiling

from nearfar.errors import NearfarError, suggest
from nearfar.similarity.block import Build
from nearfar.similarity.dense.matrix import DenseBlock
from nearfar.similarity.dense.reference import ReferenceBlock
from nearfar.similarity.tiled.block import TiledBlock

SMALL = 2**17
"""Comparisons up to which a matrix in memory is as fast as tiles."""

logger = logging.getLogger("nearfar")

backends: dict[str, Build] = {"reference": ReferenceBlock, "dense": DenseBlock, "tiled": TiledBlock}


def check_backend(name: str) -> None:
    """Refuse a backend that there is not.

    Raises:
        NearfarError: if there is no such backend.
    """
    if name != "auto" and name not in backends:
        known = ["auto", *backends]
        raise NearfarError(f"backend {name!r} is not one of {', '.join(known)}.{suggest(name, known)}")


def choose(name: str, anchors: int, candidates: int) -> Build:
    """Return the backend called ``name``; ``"auto"`` chooses by size, and logs its choice once."""
    check_backend(name)
    if name == "auto":
        pairs = anchors * candidates
        name = "dense" if pairs <= SMALL else "tiled"
        if not is_compiling():
            few = "at most" if name == "dense" else "more than"
            _log(name, f"{few} {SMALL:,} comparisons")
    return backends[name]


@cache
def _log(name: str, reason: str) -> None:
    logger.info("backend = auto chose %r: %s", name, reason)
