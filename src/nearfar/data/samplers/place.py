"""Where a sampler stands in its epochs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nearfar.errors import CheckpointError


@dataclass
class Place:
    """Epoch, batches handed out in it, and the step at which the next iteration begins."""

    epoch: int = 0
    position: int = 0
    start: int = 0

    def go_to(self, epoch: int) -> bool:
        """Go to the beginning of ``epoch``, unless it is this one; say whether it is another."""
        if epoch == self.epoch:
            return False
        self.epoch, self.position, self.start = epoch, 0, 0
        return True

    def steps(self, length: int) -> Iterator[int]:
        """Yield the steps that are left; the next time all of them."""
        start, self.start = self.start, 0
        for step in range(start, length):
            self.position = step + 1
            yield step

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
        self.epoch, self.position, self.start = state["epoch"], state["position"], state["position"]
