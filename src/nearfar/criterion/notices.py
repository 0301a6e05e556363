"""What a loss says of its batches, once each: labels that are missing, and no positive pair."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.compiler import is_compiling

from nearfar.callers import level
from nearfar.criterion.classes import unknown_label
from nearfar.errors import NearfarError
from nearfar.missing import MISSING, missing
from nearfar.similarity.stable import at_once

NONE = -(2**63)
"""In place of a label: all are of classes."""


@dataclass
class Notices:
    """What is looked for, until it has been said.

    A device that works by itself is not waited for: what it finds is told at the next batch.

    Attributes:
        of_missing, of_positives: whether labels that are missing, and positives, are still looked for.
    """

    of_missing: bool = True
    of_positives: bool = True
    _coming: list[tuple[Tensor, Callable[[], bool], Callable[[int], None]]] = field(default_factory=list)

    def __getstate__(self) -> dict[str, object]:
        """Copy and pickle without what is still to come."""
        return {**self.__dict__, "_coming": []}

    def look_for_missing(self, labels: list[Int[Tensor, " n"]]) -> None:
        """Warn of labels that say "missing"."""
        if not self.of_missing or not labels:
            return
        given = labels[0] if len(labels) == 1 else torch.cat(labels)
        n = given.shape[0]
        if at_once(given):
            found = given.numpy()
            if n and np.minimum.reduce(found) < 0:
                self._tell_of_missing(int((found == MISSING).sum()), n)
        else:
            self._bring((given == MISSING).sum(), lambda count: self._tell_of_missing(count, n))

    def look_for_positives(self, some: bool | Tensor, n: int) -> None:
        """Warn where there are none.

        Args:
            some: whether there are; a tensor where a device knows.
            n: how many rows the batch has.
        """
        if not self.of_positives or not n:
            return
        if isinstance(some, Tensor):
            self._bring(some, lambda found: self._tell_of_positives(bool(found), n))
        else:
            self._tell_of_positives(some, n)

    def look_for_unknown(
        self, labels: Int[Tensor, " n"], unknown: Bool[Tensor, " n"], classes: int, name: str
    ) -> None:
        """Refuse, at the next batch, labels that are none of the classes that a loss was created for."""
        if not len(labels):
            return

        def refuse(label: int) -> None:
            if label != NONE:
                raise NearfarError(unknown_label(label, classes, name, " of the last batch"))

        self._bring(torch.where(unknown, labels.long(), NONE).amax(), refuse)

    def look_for_wrong_weights(self, weights: Float[Tensor, " n"]) -> None:
        """Refuse, at the next batch, weights that are negative or not finite."""

        def refuse(wrong: int) -> None:
            if wrong:
                raise NearfarError(
                    f"{wrong} of the {len(weights)} weights of the last batch were negative or not finite; "
                    "give 0 to leave an anchor out."
                )

        self._bring((~((weights >= 0) & weights.isfinite())).sum(), refuse)

    def listen(self) -> None:
        """Tell what has come of earlier batches."""
        if not self._coming or is_compiling():
            return
        coming, self._coming = self._coming, []
        for number, has_come, tell in coming:
            if has_come():
                tell(int(number.numpy()))
            else:
                self._coming.append((number, has_come, tell))

    def _bring(self, number: Tensor, tell: Callable[[int], None]) -> None:
        if is_compiling():  # nothing is told by code that is compiled
            return
        if number.device.type != "cuda":
            self._coming.append((number.to("cpu", non_blocking=True), lambda: True, tell))
            return
        if _captures():  # what a graph finds is told to nobody
            return
        here = torch.empty((), dtype=number.dtype, pin_memory=True).copy_(number, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._coming.append((here, lambda: not _captures() and event.query(), tell))

    def _tell_of_missing(self, count: int, n: int) -> None:
        if count and self.of_missing:
            self.of_missing = False
            warnings.warn(missing(count, n, "are taken as one class", "the loss"), stacklevel=level())

    def _tell_of_positives(self, some: bool, n: int) -> None:
        if not some and self.of_positives:
            self.of_positives = False
            warnings.warn(
                f"this batch has no positive pair: its {n} labels all differ from those they are compared "
                "with. Set batch.images_per_class to 2 or more.",
                stacklevel=level(),
            )


def _captures() -> bool:
    """Whether operations are written down for a CUDA graph, so that no event may be asked."""
    return torch.cuda.is_current_stream_capturing()
