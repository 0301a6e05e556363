"""P x K batches that are planned for a whole epoch ahead."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int64

from nearfar.data.samplers.dealing import Deal
from nearfar.data.samplers.members import Members, as_count, read_labels
from nearfar.data.samplers.place import Place


class Draw(Protocol):
    """Which classes make the batches of an epoch.

    Attributes:
        name: tells one from another in a state.
        length: number of batches in an epoch.
    """

    name: str
    length: int

    def classes(self, random: np.random.Generator) -> Int64[np.ndarray, "step place"]:
        """Return the classes of each batch of an epoch, all different within a batch."""
        ...


class PKSampler:
    """Batches of ``classes_per_batch`` classes with ``images_per_class`` images of each.

    An epoch shows every class and every image at least once. Each class is dealt, in random order, into hands
    of ``images_per_class``; a last hand that is short is filled with other images of the class, and a class
    with fewer images than a hand repeats them. A batch takes one hand of each of its classes, so its classes
    differ. Classes are drawn in proportion to the hands they have left, and when those run out before the
    epoch of the largest class does, the places left are given to classes drawn evenly.

    What batch ``step`` of ``epoch`` holds depends on the labels, the settings and ``seed`` alone. Each
    iteration is an epoch, and the next one that of the next epoch, also when the one before was left early;
    ``set_epoch`` jumps. The place in the epoch is state: after ``load_state_dict`` the next iteration gives
    the batches that remained, or the next epoch where none did.
    ``position`` counts batches handed out, and a loader that reads ahead has been handed more than were
    trained on; to resume, load the number of steps really taken.

    Args:
        labels: class of each image.
        classes_per_batch: P, at most the number of classes.
        images_per_class: K, at least 2.
        seed: of the draw.
        draw: another way to choose the classes of each batch, made from the set; ``create_sampler`` knows
            some by name.

    Raises:
        DataError: if a batch of these sizes is impossible or has no positive pair.
    """

    def __init__(
        self,
        labels: Int64[Any, " image"] | Sequence[int],
        classes_per_batch: int,
        images_per_class: int,
        *,
        seed: int = 0,
        draw: Callable[[Members], Draw] = Deal,
    ) -> None:
        self.labels = read_labels(labels)
        self.classes_per_batch, self.images_per_class, self.seed = classes_per_batch, images_per_class, seed
        self.members = Members(self.labels, classes_per_batch, images_per_class)
        self.seed = as_count("seed", seed)
        self.classes_per_batch = self.members.classes_per_batch
        self.images_per_class = self.members.images_per_class
        self.draw = draw(self.members)
        self.place = Place()

    def __len__(self) -> int:
        return self.draw.length

    def __repr__(self) -> str:
        drawn = "" if isinstance(self.draw, Deal) else f"{self.draw.name}, "
        size = f"{self.classes_per_batch} classes x {self.images_per_class} images"
        return f"PKSampler({drawn}{size}, {len(self)} batches)"

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of ``epoch``; the epoch that ``load_state_dict`` restored keeps its place."""
        self.place.go_to(epoch)

    @property
    def sampler(self) -> "PKSampler":
        """Itself: engines call ``batch_sampler.sampler.set_epoch``."""
        return self

    def update(self, ids: Any, embeddings: Any) -> None:
        """Learn nothing: the epoch is planned."""

    def state_dict(self) -> dict[str, Any]:
        """Return epoch and position, and the settings they belong to."""
        return {"epoch": self.place.epoch, "position": self.place.position} | self.settings()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``.

        Raises:
            CheckpointError: if the state is of another data set or of other settings.
        """
        self.place.restore(state, self.settings())

    def settings(self) -> dict[str, Any]:
        """Return what a batch depends on, besides its place."""
        return {
            "sampler": self.draw.name,
            "seed": self.seed,
            "classes_per_batch": self.classes_per_batch,
            "images_per_class": self.images_per_class,
            "images": len(self.labels),
            "classes": len(self.members),
        }

    def __iter__(self) -> Iterator[list[int]]:
        steps = self.place.begin(len(self))
        batches = self.plan(self.place.epoch)
        for step in steps:
            self.place.position = step + 1
            yield batches[step].tolist()

    def plan(self, epoch: int) -> Int64[np.ndarray, "step row"]:
        """Return all batches of an epoch; the rows of a class lie together."""
        random = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        return self.members.deal(self.draw.classes(random), random)
