"""Where a sampler stands in its epochs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nearfar.data.samplers.members import as_count
from nearfar.errors import CheckpointError


@dataclass
class Place:
    """Which epoch comes, or is under way, and how many of its batches were handed out.

    Attributes:
        epoch: counted from 0.
        position: batches handed out in it.
        coming: the next iteration is of this epoch, from ``position`` on, and not of the one after it.
        asked: the epoch was asked for by ``go_to``, so that it comes even if nothing is left of it.
    """

    epoch: int = 0
    position: int = 0
    coming: bool = True
    asked: bool = False

    def go_to(self, epoch: int) -> bool:
        """Go to the beginning of ``epoch``, unless it is coming already; say whether anything changed."""
        epoch = as_count("epoch", epoch)
        stays = self.coming and epoch == self.epoch
        if not stays:
            self.epoch, self.position = epoch, 0
        self.coming = self.asked = True
        return not stays

    def begin(self, length: int) -> range:
        """Begin an iteration: return what is left of the epoch that comes, else all steps of the next.

        An iteration that was left before its end is over as well: whoever takes a part of each epoch would
        otherwise see the same part for ever.
        """
        if not self.coming or (self.position >= length and not self.asked):
            self.epoch, self.position = self.epoch + 1, 0
        self.coming = self.asked = False
        return range(self.position, length)

    def restore(self, state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Take the place of ``state``, if it was made with these settings.

        Raises:
            CheckpointError: if it was not.
        """
        for name, value in settings.items():
            if state.get(name) != value:
                raise CheckpointError(
                    f"the checkpoint was made with {name} = {state.get(name)} but this run has {value}; "
                    "resume with the same data and batch settings."
                )
        self.epoch, self.position, self.coming, self.asked = state["epoch"], state["position"], True, False
