"""Which backend computes a block: by name, or by size and device."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Protocol, runtime_checkable

from torch import Tensor

from nearfar.errors import NearfarError, suggest
from nearfar.similarity import dense, reference
from nearfar.similarity.block import Block
from nearfar.similarity.interval import Interval
from nearfar.similarity.reductions import Reduction

logger = logging.getLogger("nearfar")


@runtime_checkable
class Backend(Protocol):
    """What a backend does. A module with these three functions is one; add it to ``backends``."""

    def prepare(self, vectors: Tensor) -> Tensor:
        """Return vectors in the precision that the backend computes in."""
        ...

    def positives(self, block: Block, anchor: Tensor, candidate: Tensor) -> Tensor:
        """Return the similarity [positive] of the pairs listed, differentiable."""
        ...

    def stream(
        self, block: Block, interval: Interval, owners: Tensor, reductions: Sequence[Reduction]
    ) -> tuple[Tensor, ...]:
        """Reduce each anchor's negatives that lie in ``interval``, in one pass for all ``reductions``.

        Args:
            owners: the anchor of each positive pair, for reductions ``per="positive"``.

        Returns:
            One tensor per reduction, [anchor] or [positive], differentiable in the vectors of the block and
            in thresholds that carry gradient.
        """
        ...


backends: dict[str, Backend] = {"reference": reference, "dense": dense}


def choose(name: str) -> Backend:
    """Return the backend called ``name``; ``"auto"`` chooses, and logs its choice once.

    Raises:
        NearfarError: if there is no such backend.
    """
    if name == "auto":
        _log("dense", "the only backend that is not for reference yet")
        return dense
    if name not in backends:
        known = ["auto", *backends]
        raise NearfarError(f"backend {name!r} is not one of {', '.join(known)}.{suggest(name, known)}")
    return backends[name]


@cache
def _log(name: str, reason: str) -> None:
    logger.info("backend = auto chose %r: %s", name, reason)
