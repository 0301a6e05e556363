"""Batches from a few super-classes: what is confused with each other is met together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from nearfar.data.samplers.dealing import deal, shortest
from nearfar.data.samplers.members import Members
from nearfar.errors import DataError


class Hierarchical:
    """Each batch takes its classes from G super-classes, as many from each; all images are dealt.

    Within a super-class its classes are dealt as by ``Deal``; the blocks that this makes are dealt to the
    batches in the same way, so that an epoch shows every image at least once.
    """

    name = "hierarchical"

    def __init__(
        self,
        members: Members,
        *,
        super_classes: Sequence[Any] | np.ndarray | Mapping[Any, Any],
        super_classes_per_batch: int,
    ) -> None:
        self.members, self.per_batch = members, super_classes_per_batch
        names, parent = np.unique(parents(members, super_classes), return_inverse=True)
        if not 1 <= self.per_batch <= len(names):
            raise DataError(
                f"super_classes_per_batch = {self.per_batch} but there are {len(names)} super-classes; "
                f"set it between 1 and {len(names)}."
            )
        self.share, rest = divmod(members.classes_per_batch, self.per_batch)
        if rest:
            raise DataError(
                f"classes_per_batch = {members.classes_per_batch} cannot be shared evenly by "
                f"super_classes_per_batch = {self.per_batch}; make it a multiple."
            )
        self.children = [np.flatnonzero(parent == place) for place in range(len(names))]
        for name, children in zip(names, self.children, strict=True):
            if len(children) < self.share:
                raise DataError(
                    f"super-class {name} has {len(children)} classes but a batch takes {self.share} of each "
                    "of its super-classes; raise super_classes_per_batch or join small super-classes."
                )
        self.blocks = np.array([shortest(members.hands[each], self.share) for each in self.children])
        self.length = shortest(self.blocks, self.per_batch)

    def classes(self, random: np.random.Generator) -> Int64[np.ndarray, "step place"]:
        """Return the classes of each batch of an epoch; those of a super-class lie together."""
        parent = deal(self.blocks, self.per_batch, self.length, random)
        chosen = np.empty((self.length, self.per_batch, self.share), dtype=np.int64)
        for place, children in enumerate(self.children):
            turns = parent == place
            block = deal(self.members.hands[children], self.share, int(turns.sum()), random)
            chosen[turns] = children[block]
        return chosen.reshape(self.length, -1)


def parents(members: Members, super_classes: Sequence[Any] | np.ndarray | Mapping[Any, Any]) -> np.ndarray:
    """Return the super-class of each class, given for each image or by class label."""
    if isinstance(super_classes, Mapping):
        labels = members.names.tolist()
        missing = [label for label in labels if label not in super_classes]
        if missing:
            raise DataError(
                f"super_classes has no entry for class {missing[0]} ({len(missing)} of {len(labels)} are "
                "missing); name the super-class of every class."
            )
        return np.array([super_classes[label] for label in labels])
    of_image = np.asarray(super_classes)
    if of_image.shape != members.label.shape:
        raise DataError(
            f"super_classes has shape {list(of_image.shape)} but there are {len(members.label)} images; "
            "give one super-class for each image, or a mapping from class to super-class."
        )
    of_class = of_image[[images[0] for images in members.images]]
    torn = np.flatnonzero((members.label >= 0) & (of_image != of_class[members.label]))
    if len(torn):
        raise DataError(
            f"class {members.names[members.label[torn[0]]]} lies in two super-classes, "
            f"{of_class[members.label[torn[0]]]} and {of_image[torn[0]]}; a class has one."
        )
    return of_class
