"""The images of each class, and how a class deals them out in hands."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from nearfar.errors import DataError
from nearfar.numbers import whole_number
from nearfar.printable import quoted

log = logging.getLogger("nearfar")


class Members:
    """The images of a set by class, for batches of P classes with K images of each.

    Classes are counted from 0 here, in the order of their labels.

    Args:
        labels: class of each image; those that are masked are left out.
        classes_per_batch: P, at most the number of classes.
        images_per_class: K, at least 2.

    Attributes:
        names: the label of each class.
        label: the class of each image; -1 for those that are masked, which no batch holds.
        sizes: how many images each class has.
        images: the images of each class, in the order of the set.
        hands: how many hands of K images it takes to show each class whole.

    Raises:
        DataError: if a batch of these sizes is impossible or has no positive pair.
    """

    def __init__(
        self, labels: Int64[Any, " image"] | Sequence[int], classes_per_batch: int, images_per_class: int
    ) -> None:
        classes_per_batch = as_count("classes_per_batch", classes_per_batch)
        images_per_class = as_count("images_per_class", images_per_class)
        self.classes_per_batch, self.images_per_class = classes_per_batch, images_per_class
        if images_per_class < 2:
            raise DataError(
                f"images_per_class = {images_per_class} gives no positive pair; "
                "set batch.images_per_class to 2 or more."
            )
        given = read_labels(labels)
        there = np.flatnonzero(~np.ma.getmaskarray(given))
        self.names, of_these = np.unique(np.ma.getdata(given)[there], return_inverse=True)
        self.label = np.full(len(given), -1)
        self.label[there] = of_these
        self.sizes = np.bincount(of_these)
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
        self.images = np.split(there[np.argsort(of_these, kind="stable")], np.cumsum(self.sizes)[:-1])
        self.hands = -(-self.sizes // images_per_class)
        small = int((self.sizes < images_per_class).sum())
        if small:
            log.warning(
                "%d of %d classes have fewer than images_per_class = %d images; a batch repeats theirs.",
                small,
                len(self.sizes),
                images_per_class,
            )

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.sizes)

    @property
    def batches(self) -> int:
        """How many batches show as many images as there are."""
        return -(-int(self.sizes.sum()) // (self.classes_per_batch * self.images_per_class))

    def deal(
        self, chosen: Int64[np.ndarray, "step place"], random: np.random.Generator
    ) -> Int64[np.ndarray, "step row"]:
        """Return images for the classes of each batch: a class shows all of its before it shows one again."""
        rows = np.empty((*chosen.shape, self.images_per_class), dtype=np.int64)
        by_class = np.argsort(chosen, axis=None, kind="stable")
        turns = np.bincount(chosen.ravel(), minlength=len(self))
        flat = rows.reshape(-1, self.images_per_class)
        for images, places in zip(self.images, np.split(by_class, np.cumsum(turns)[:-1]), strict=True):
            flat[places] = deal_images(images, self.images_per_class, len(places), random)
        return rows.reshape(len(chosen), -1)


def read_labels(labels: Any) -> np.ndarray:
    """Return one label for each image, of a list, an array (masked or not) or a tensor on any device.

    Raises:
        DataError: if there is not one whole number, or one name, for each image.
    """
    given = labels.detach().cpu().numpy() if hasattr(labels, "detach") else np.asanyarray(labels)
    if given.ndim != 1:
        raise DataError(
            f"labels has shape {list(given.shape)}; a sampler takes one label for each image, [n]"
            f"{', such as labels.flatten()' if given.ndim and given.size == len(given) else ''}."
        )
    if given.dtype.kind == "f":
        if not np.all(np.isfinite(given) & (given % 1 == 0)):
            raise DataError(f"labels are {given.dtype} and not all whole; a label is a whole number.")
        return given.astype(np.int64)
    return given


def as_count(name: str, value: Any) -> int:
    """Return a whole number of numpy, torch or Python as Python's.

    Raises:
        DataError: if it is none.
    """
    found = whole_number(value)
    if found is None:
        raise DataError(f"{name} must be a whole number; got {quoted(value)}.")
    return found


def deal_images(
    images: Int64[np.ndarray, " member"], size: int, hands: int, random: np.random.Generator
) -> Int64[np.ndarray, "hands k"]:
    """Return hands of a class from shuffled passes over its images, none twice in a hand if possible."""
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
    return np.stack(dealt[:hands]) if dealt else np.empty((0, size), dtype=np.int64)
