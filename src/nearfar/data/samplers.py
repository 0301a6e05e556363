"""Which images make a batch."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from nearfar.errors import CheckpointError, DataError

log = logging.getLogger("nearfar")


class PKSampler:
    """Batches of ``classes_per_batch`` classes with ``images_per_class`` images of each.

    An epoch shows every class and every image at least once. Each class is dealt, in random order, into hands
    of ``images_per_class``; a last hand that is short is filled with other images of the class, and a class
    with fewer images than a hand repeats them. A batch takes one hand of each of its classes, so its classes
    differ. Classes are drawn in proportion to the hands they have left, and when those run out before the
    epoch of the largest class does, the places left are given to classes drawn evenly.

    What batch ``step`` of ``epoch`` holds depends on the labels, the settings and ``seed`` alone. The place
    in the epoch is state: after ``load_state_dict`` the next iteration gives the batches that remained.
    ``position`` counts batches handed out, and a loader that reads ahead has been handed more than were
    trained on; to resume, load the number of steps really taken.

    Args:
        labels: class of each image.
        classes_per_batch: P, at most the number of classes.
        images_per_class: K, at least 2.
        seed: of the draw.

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
    ) -> None:
        self.labels = np.asarray(labels)
        self.classes_per_batch, self.images_per_class, self.seed = classes_per_batch, images_per_class, seed
        if images_per_class < 2:
            raise DataError(
                f"images_per_class = {images_per_class} gives no positive pair; "
                "set batch.images_per_class to 2 or more."
            )
        _, self.label = np.unique(self.labels, return_inverse=True)
        self.sizes = np.bincount(self.label)
        if len(self.sizes) < 2:
            raise DataError(
                f"there is {len(self.sizes)} training class; training needs two or more, and a data set that "
                "is halved by class needs four."
            )
        if not 2 <= classes_per_batch <= len(self.sizes):
            raise DataError(
                f"classes_per_batch = {classes_per_batch} but there are {len(self.sizes)} training classes; "
                f"set batch.classes_per_batch between 2 and {len(self.sizes)}."
            )
        self.hands = -(-self.sizes // images_per_class)
        # A class gives one hand to a batch, so the largest class may decide how many batches there are.
        self.length = int(max(-(-self.hands.sum() // classes_per_batch), self.hands.max()))
        small = int((self.sizes < images_per_class).sum())
        if small:
            log.warning(
                "%d of %d classes have fewer than images_per_class = %d images; a batch repeats theirs.",
                small,
                len(self.sizes),
                images_per_class,
            )
        self.epoch, self.position, self.start = 0, 0, 0

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        size = f"{self.classes_per_batch} classes x {self.images_per_class} images"
        return f"PKSampler({size}, {len(self)} batches)"

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of ``epoch``; the epoch that ``load_state_dict`` restored keeps its place."""
        if epoch != self.epoch:
            self.epoch, self.position, self.start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Return epoch and position, and the settings they belong to."""
        return {"epoch": self.epoch, "position": self.position} | self.settings()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from ``state``.

        Raises:
            CheckpointError: if the state is of another data set or of other settings.
        """
        for name, value in self.settings().items():
            if state[name] != value:
                raise CheckpointError(
                    f"the checkpoint was made with {name} = {state[name]} but this run has {value}; "
                    "resume with the same data and batch settings."
                )
        self.epoch, self.position, self.start = state["epoch"], state["position"], state["position"]

    def settings(self) -> dict[str, int]:
        """Return what a batch depends on, besides its place."""
        return {
            "seed": self.seed,
            "classes_per_batch": self.classes_per_batch,
            "images_per_class": self.images_per_class,
            "images": len(self.labels),
            "classes": len(self.sizes),
        }

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.plan(self.epoch)
        start, self.start = self.start, 0
        for step in range(start, len(self)):
            self.position = step + 1
            yield batches[step].tolist()

    def plan(self, epoch: int) -> Int64[np.ndarray, "step row"]:
        """Return all batches of an epoch; the rows of a class lie together."""
        random = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        chosen = self.deal_classes(random)
        members = np.split(np.argsort(self.label, kind="stable"), np.cumsum(self.sizes)[:-1])
        rows = np.empty((*chosen.shape, self.images_per_class), dtype=np.int64)
        by_class = np.argsort(chosen, axis=None, kind="stable")
        turns = np.bincount(chosen.ravel(), minlength=len(self.sizes))
        flat = rows.reshape(-1, self.images_per_class)
        for images, places in zip(members, np.split(by_class, np.cumsum(turns)[:-1]), strict=True):
            flat[places] = self.deal_images(images, len(places), random)
        return rows.reshape(len(self), -1)

    def deal_classes(self, random: np.random.Generator) -> Int64[np.ndarray, "step place"]:
        """Return the classes of each batch, so that every class is dealt all its hands."""
        left = self.hands.astype(np.float64)
        chosen = np.empty((len(self), self.classes_per_batch), dtype=np.int64)
        for step in range(len(self)):
            # Weighted draw without replacement: the largest log(u) / weight. A class with as many hands left
            # as there are batches must be in each of them; there are never more of these than places, because
            # the hands left fit the places left and each such class fills one place of every batch.
            with np.errstate(divide="ignore"):
                keys = np.log(random.random(len(left))) / left
            spare = np.flatnonzero(left == 0)
            keys[spare] = -np.inf
            keys[left >= len(self) - step] = np.inf
            wanted = min(self.classes_per_batch, len(left) - len(spare))
            taken = np.argpartition(-keys, wanted - 1)[:wanted] if wanted else spare[:0]
            left[taken] -= 1
            filling = random.choice(spare, self.classes_per_batch - wanted, replace=False)
            chosen[step] = random.permutation(np.concatenate([taken, filling]))
        return chosen

    def deal_images(
        self, images: Int64[np.ndarray, " member"], hands: int, random: np.random.Generator
    ) -> Int64[np.ndarray, "hands k"]:
        """Return hands of a class from shuffled passes over its images, none twice in a hand if possible."""
        size = self.images_per_class
        if len(images) <= size:
            short = size % len(images) if len(images) < size else 0
            whole = np.tile(images, (hands, size // len(images)))
            extra = [random.choice(images, short, replace=False) for _ in range(hands)]
            return np.concatenate([whole, np.array(extra, dtype=np.int64).reshape(hands, short)], axis=1)
        dealt: list[np.ndarray] = []
        while len(dealt) < hands:
            shuffled = random.permutation(images)
            for start in range(0, len(images), size):
                hand = shuffled[start : start + size]
                others = np.concatenate([shuffled[:start], shuffled[start + size :]])
                filling = random.choice(others, size - len(hand), replace=False)
                dealt.append(np.concatenate([hand, filling]))
        return np.stack(dealt[:hands])
