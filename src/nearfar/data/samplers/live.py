"""P x K batches that depend on what training has found so far."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, Int64

from nearfar.data.samplers.members import Members, as_count, read_labels
from nearfar.data.samplers.place import Place
from nearfar.errors import DataError


class LiveSampler(Protocol):
    """Draws each batch when it is asked for, from what was learned until then.

    A sampler of this kind says how to ``draw`` a batch and what to ``learn`` from a step; the rest is here.
    Call ``update`` after each training step. Each iteration is an epoch, and the next one that of the next
    epoch, also when the one before was left early; ``set_epoch`` jumps. A batch depends on the labels, the
    settings, ``seed``, its place and on what was learned; all of this is state. Batches that were handed out
    but not trained on yet (a loader reads ahead) are state too: a resumed run trains on the same ones.

    Args:
        labels: class of each image.
        classes_per_batch: P, at most the number of classes.
        images_per_class: K, at least 2.
        seed: of the draw.

    Attributes:
        name: tells one kind from another in a state.
        members: the images of each class.
        trained: steps of this epoch that ``update`` was told of.
        ahead: batches of this epoch by step, not trained on yet.
    """

    name: str
    labels: np.ndarray
    classes_per_batch: int
    images_per_class: int
    seed: int
    members: Members
    place: Place
    trained: int
    ahead: dict[int, list[int]]

    def __init__(
        self,
        labels: Int64[Any, " image"] | Sequence[int],
        classes_per_batch: int,
        images_per_class: int,
        *,
        seed: int = 0,
    ) -> None:
        self.labels = read_labels(labels)
        self.classes_per_batch, self.images_per_class, self.seed = classes_per_batch, images_per_class, seed
        self.members = Members(self.labels, classes_per_batch, images_per_class)
        self.seed = as_count("seed", seed)
        self.classes_per_batch = self.members.classes_per_batch
        self.images_per_class = self.members.images_per_class
        self.place, self.trained, self.ahead = Place(), 0, {}

    def draw(self, random: np.random.Generator) -> Int64[np.ndarray, " row"]:
        """Draw one batch; the rows of a class lie together."""
        ...

    def learn(self, label: Int64[np.ndarray, " n"], embeddings: Float32[np.ndarray, "n dim"]) -> None:
        """Learn from a step: the classes of its rows, counted from 0, and their embeddings."""
        ...

    def learned(self) -> dict[str, Any]:
        """Return all that was learned, as tensors and numbers."""
        ...

    def relearn(self, state: Mapping[str, Any]) -> None:
        """Take what ``learned`` returned."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return what a batch depends on, besides its place and what was learned."""
        return {
            "sampler": self.name,
            "seed": self.seed,
            "classes_per_batch": self.classes_per_batch,
            "images_per_class": self.images_per_class,
            "images": len(self.labels),
            "classes": len(self.members),
        }

    def __len__(self) -> int:
        """Return the number of batches that show as many images as there are."""
        return self.members.batches

    def __repr__(self) -> str:
        size = f"{self.classes_per_batch} classes x {self.images_per_class} images"
        return f"{type(self).__name__}({size}, {len(self)} batches)"

    def __iter__(self) -> Iterator[list[int]]:
        before = self.place.epoch
        steps = self.place.begin(len(self))
        epoch = self.place.epoch
        if epoch != before:
            self.trained, self.ahead = 0, {}
        for step in steps:
            if step not in self.ahead:
                random = np.random.Generator(np.random.PCG64([self.seed, epoch, step]))
                self.ahead[step] = self.draw(random).tolist()
            self.place.position = step + 1
            yield self.ahead[step]

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of ``epoch``; the epoch that ``load_state_dict`` restored keeps its place."""
        if self.place.go_to(epoch):
            self.trained, self.ahead = 0, {}

    @property
    def sampler(self) -> "LiveSampler":
        """Itself: engines call ``batch_sampler.sampler.set_epoch``."""
        return self

    def update(self, ids: Any, embeddings: Any) -> None:
        """Take note of a training step: the rows it was made of, and what they were embedded as.

        Nothing is learned from embeddings that are not finite.

        Raises:
            DataError: if there is not one embedding for each row.
        """
        rows, values = as_array(ids), as_array(embeddings)
        if values.ndim != 2 or len(rows) != len(values):
            raise DataError(
                f"a step of {len(rows)} images has embeddings of shape {list(values.shape)}; "
                "give one row for each image."
            )
        self.ahead.pop(self.trained, None)
        self.trained += 1
        with np.errstate(over="ignore"):  # float64 beyond float32 is infinite there
            values = values.astype(np.float32, copy=False)
        finite = np.isfinite(values).all(axis=1)
        self.learn(self.members.label[rows[finite]], values[finite])

    def state_dict(self) -> dict[str, Any]:
        """Return the place, the settings, the batches not trained on yet and all that was learned."""
        ahead = [(self.place.epoch, step, list(batch)) for step, batch in self.ahead.items()]
        place = {"epoch": self.place.epoch, "position": self.place.position}
        return {**place, **self.settings(), "ahead": ahead, "learned": self.learned()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; ``position`` in it may be set to the number of steps really taken.

        Raises:
            CheckpointError: if the state is of another data set or of other settings.
        """
        self.place.restore(state, self.settings())
        self.trained = self.place.position
        # Whoever sets another place has no use for what was handed out elsewhere.
        self.ahead = {
            step: list(batch)
            for epoch, step, batch in state["ahead"]
            if epoch == self.place.epoch and step >= self.place.position
        }
        self.relearn(state["learned"])


def as_array(values: Any) -> np.ndarray:
    """Return a tensor of any device and kind, or a list, as an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)
