"""What every sampler is: batches of ids, epoch by epoch, with a state."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class BatchSampler(Protocol):
    """Batches of P different classes with K images of each; the rows of a class lie together.

    ``position`` of the state counts batches handed out, and a loader that reads ahead has been handed more
    than were trained on; to resume, load the number of steps really taken.
    """

    classes_per_batch: int
    images_per_class: int
    seed: int

    def __len__(self) -> int:
        """Return the number of batches in an epoch, the same for all epochs."""
        ...

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of an epoch as rows of the set: what is left of the one that ``set_epoch`` or
        ``load_state_dict`` named, else all of the next.
        """
        ...

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of ``epoch``; the epoch that ``load_state_dict`` restored keeps its place."""
        ...

    def update(self, ids: Any, embeddings: Any) -> None:
        """Take note of a training step: the rows it was made of, and what they were embedded as.

        A sampler whose batches are planned learns nothing from it.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch, the settings it belongs to, and all that was learned."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; of another data set or of other settings it is a CheckpointError."""
        ...
