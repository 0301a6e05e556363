"""Greedy batches of classes that are hard to tell apart, by running class means."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from nearfar.data.samplers.live import LiveSampler
from nearfar.data.samplers.members import as_count, deal_images
from nearfar.errors import DataError


class HardClassSampler(LiveSampler):
    """Hard negative class mining of the N-pair paper, with class means that follow the training.

    μ_c is the running mean of the unit embeddings of class c. A batch begins with a random class; then, until
    there are P, it takes the class nearest to any that was taken:

        c = argmin_{c not in B} min_{b in B} ‖μ_b - μ_c‖²

    This is the class that violates the triplet constraint most. For images a, p of class b and n of class c,
    s_an - s_ap is μ_b·μ_c - ‖μ_b‖² in the mean, with the roles exchanged μ_b·μ_c - ‖μ_c‖², and the sum of
    both is -‖μ_b - μ_c‖². Short means, of classes that scatter, are thus near each other, as they should be.

    A class without a mean yet is taken before any other, so that the first batches meet all classes. Of
    equals a random one is taken. The means are state.

    Args:
        labels: class of each image.
        classes_per_batch: P.
        images_per_class: K; drawn at random from the class.
        seed: of the draw.
        candidates: a batch is chosen among this many random classes; None for four times P. All classes
            give the hardest batches, and the same ones again and again.
        momentum: of a mean when its class is met again, in [0, 1); 0 keeps the newest embeddings alone.

    Raises:
        DataError: if a setting does not fit.
    """

    name = "hard_classes"

    def __init__(
        self,
        labels: Int64[Any, " image"] | Sequence[int],
        classes_per_batch: int,
        images_per_class: int,
        *,
        seed: int = 0,
        candidates: int | None = None,
        momentum: float = 0.5,
    ) -> None:
        super().__init__(labels, classes_per_batch, images_per_class, seed=seed)
        candidates = None if candidates is None else as_count("candidates", candidates)
        if candidates is not None and candidates < classes_per_batch:
            raise DataError(
                f"candidates = {candidates} is less than classes_per_batch = {classes_per_batch}; "
                "choose a batch among as many classes at least."
            )
        if not 0 <= momentum < 1:
            raise DataError(f"momentum must be at least 0 and below 1; got {momentum}.")
        self.candidates = min(candidates or 4 * classes_per_batch, len(self.members))
        self.momentum = momentum
        self.means: Float32[np.ndarray, "class dim"] = np.zeros((len(self.members), 0), np.float32)
        self.met = np.zeros(len(self.members), dtype=bool)

    def settings(self) -> dict[str, Any]:
        """Return what a batch depends on, besides its place and the means."""
        return super().settings() | {"candidates": self.candidates, "momentum": self.momentum}

    def draw(self, random: np.random.Generator) -> Int64[np.ndarray, " row"]:
        """Draw one batch; the rows of a class lie together, in the order in which classes were taken."""
        pool = random.permutation(len(self.members))[: self.candidates]
        taken = pool[greedy(self.means[pool], self.met[pool], self.classes_per_batch)]
        hands = [deal_images(self.members.images[c], self.images_per_class, 1, random)[0] for c in taken]
        return np.concatenate(hands)

    def learn(self, label: Int64[np.ndarray, " n"], embeddings: Float32[np.ndarray, "n dim"]) -> None:
        """Move the means of the classes in a step towards the embeddings they have now."""
        length = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
        unit = (embeddings / np.maximum(length, 1e-12)).astype(np.float32)
        classes, place = np.unique(label, return_inverse=True)
        total = np.zeros((len(classes), unit.shape[1]), np.float32)
        np.add.at(total, place, unit)
        mean = total / np.bincount(place)[:, None].astype(np.float32)
        if self.means.shape[1] == 0:
            self.means = np.zeros((len(self.members), unit.shape[1]), np.float32)
        if self.means.shape[1] != unit.shape[1]:
            raise DataError(
                f"embeddings have {unit.shape[1]} dimensions but the class means have "
                f"{self.means.shape[1]}; keep to one model."
            )
        keep = np.where(self.met[classes], np.float32(self.momentum), np.float32(0))[:, None]
        self.means[classes] = keep * self.means[classes] + (1 - keep) * mean
        self.met[classes] = True

    def learned(self) -> dict[str, Any]:
        """Return the means as tensors: a checkpoint holds nothing else."""
        import torch

        return {"means": torch.from_numpy(self.means.copy()), "met": torch.from_numpy(self.met.copy())}

    def relearn(self, state: Mapping[str, Any]) -> None:
        """Take the means of ``state``."""
        self.means, self.met = state["means"].numpy().copy(), state["met"].numpy().copy()


def greedy(
    means: Float32[np.ndarray, "class dim"], met: np.ndarray, count: int
) -> Int64[np.ndarray, " taken"]:
    """Take the first class, then those not met yet, then always the one nearest to any that was taken."""
    points: Float64[np.ndarray, "class dim"] = means.astype(np.float64)
    length = np.square(points).sum(axis=1)
    new = np.flatnonzero(~met)
    taken = [0, *new[new > 0][: count - 1].tolist()]
    nearest = np.full(len(points), np.inf)

    def approach(one: int) -> None:
        """Let every class know a newly taken one."""
        if met[one]:
            np.minimum(nearest, length + length[one] - 2 * (points @ points[one]), out=nearest)

    for one in taken:
        approach(one)
    free = np.ones(len(points), dtype=bool)
    free[taken] = False
    while len(taken) < count:
        # With no mean to compare with, all are equal and the first, a random one, is taken.
        left = np.flatnonzero(free)
        taken.append(int(left[np.argmin(nearest[left])]))
        free[taken[-1]] = False
        approach(taken[-1])
    return np.array(taken)
