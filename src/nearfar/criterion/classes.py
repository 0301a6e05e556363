"""The classes that a batch meets: where each row's own is among them, and which they are."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.inputs import Labels
from nearfar.mining.counter import key_of, mixed
from nearfar.similarity.classes.own import subset
from nearfar.similarity.stable import at_once


@dataclass(eq=False)
class Met:
    """Classes that a batch is compared with.

    Attributes:
        place: where each anchor's class is among them.
        labels: theirs, in order.
        chosen: which of all classes they are; None for all.
    """

    place: Int[Tensor, " anchor"]
    labels: Int[Tensor, " class"]
    chosen: Int[Tensor, " class"] | None = None

    def vectors(self, every: Float[Tensor, "row dim"], centres: int) -> Float[Tensor, "few dim"]:
        """Return the vectors of these, from those of all classes, of which each has ``centres``."""
        return every if self.chosen is None else subset(every, self.chosen, centres)


def meet(name: str, class_labels: Int[Tensor, " class"] | None, labels: Labels, share: float) -> Met | None:
    """Find each label among the classes that a loss was created for; None if it was for none.

    Args:
        share: of all classes, how many a batch meets; see ``choose_some``.

    Raises:
        NearfarError: if a label is not among them.
    """
    if class_labels is None:
        return None
    if not isinstance(labels, Tensor) or labels.ndim != 1:
        raise NearfarError(f"{name} was created with classes=…, so that labels must be classes [n].")
    place, unknown = find(name, class_labels, labels)
    if unknown is not None and len(wrong := labels[unknown]):
        raise NearfarError(unknown_label(int(wrong[0]), len(class_labels), name))
    if share == 1:
        return Met(place, class_labels)
    chosen, place = choose_some(place, len(class_labels), share)
    return Met(place, class_labels[chosen], chosen)


def find(
    name: str, class_labels: Int[Tensor, " class"], labels: Int[Tensor, " n"]
) -> tuple[Int[Tensor, " n"], Bool[Tensor, " n"] | None]:
    """Find each label among those of the classes.

    Returns:
        Its place, and which of them are none of the classes; None where all are known to be.

    Raises:
        NearfarError: if a label is not among them, and nobody has to wait to see that.
    """
    labels = labels.long()
    if not at_once(labels):
        place = torch.searchsorted(class_labels, labels).clamp_max(len(class_labels) - 1)
        return place, class_labels[place] != labels
    given, known = labels.numpy(), class_labels.numpy()
    last = len(known) - 1
    counted = known[0] == 0 and known[last] == last  # 0, 1, 2, …: a label is its place
    if counted and (not len(given) or (np.minimum.reduce(given) >= 0 and np.maximum.reduce(given) <= last)):
        return labels, None
    place = np.searchsorted(known, given).clip(max=last)
    wrong = given[known[place] != given]
    if len(wrong):
        raise NearfarError(unknown_label(int(wrong[0]), len(known), name))
    return torch.from_numpy(place), None


def unknown_label(label: int, classes: int, name: str, where: str = "") -> str:
    """Say that a label is not among the classes."""
    return (
        f"label {label}{where} is not among the {classes} classes that {name} "
        "was created for. Give all labels of the training set as classes=…"
    )


def choose_some(
    place: Int[Tensor, " anchor"], classes: int, share: float
) -> tuple[Int[Tensor, " chosen"], Int[Tensor, " anchor"]]:
    """Choose the classes of the batch and as many others, at random, as make ``share`` of all classes.

    Every class gets a number that is a function of its own and of a key from torch's generator, and the
    smallest are taken: no class twice, and the same again when training resumes from a checkpoint.

    Returns:
        The chosen classes in order, and each anchor's place among them.
    """
    count = math.ceil(share * classes)
    if count < len(place):
        present = np.unique(place.numpy()) if at_once(place) else torch.unique(place)
        count = max(count, len(present))
    every = torch.arange(classes, device=place.device)
    drawn = mixed(every ^ key_of(None))
    drawn.index_fill_(0, place, -(2**63))
    chosen = drawn.topk(count, largest=False, sorted=False).indices.sort().values
    return chosen, torch.searchsorted(chosen, place)
