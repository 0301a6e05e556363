"""Looks at the numbers of a run for what goes wrong in metric learning, and says it in plain words."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NonFiniteError
from nearfar.losses import Loss

COLLAPSED = 1e-3
GAP = 0.01
TIED = 0.01
DRIFTED = 0.9
PATIENCE = {"collapse": 10, "no_positives": 10, "margin": 25, "no_gap": 50, "drift": 5}

_texts = {
    "collapse": (
        "all embeddings are nearly alike (spread {spread:.1g}), so nothing is learned; lower optimizer.lr, "
        "raise optimizer.warmup_epochs or use loss.mining = 'semi_hard'."
    ),
    "margin": (
        "the loss ({loss:.3g}) stands at its margin ({margin:g}): positives (similarity "
        "{positive_similarity:.2f}) are no nearer than negatives ({negative_similarity:.2f}); lower "
        "optimizer.lr or use loss.mining = 'semi_hard'."
    ),
    "no_gap": (
        "positives (similarity {positive_similarity:.2f}) are still no nearer than negatives "
        "({negative_similarity:.2f}); check the labels, lower optimizer.lr or use loss.mining = 'semi_hard'."
    ),
    "ties": (
        "{tied:.0%} of the validation images have a right and a wrong neighbour at exactly the same "
        "similarity; look for duplicate images or a collapse."
    ),
    "drift": (
        "the embeddings in memory are not what the network makes now (cosine {drift:.2f}), and pushing "
        "against them does harm; raise memory.start_after, lower optimizer.lr or make memory.size smaller."
    ),
    "no_positives": (
        "the batches have no positive pair, so nothing pulls; check the labels, or set "
        "batch.images_per_class to 2 or more."
    ),
}


class TrainingDiverged(NonFiniteError):
    """The loss or its gradient is not a finite number any more."""


def diverged(what: str, step: int) -> TrainingDiverged:
    """Return the error that ends a run whose numbers are lost."""
    return TrainingDiverged(
        f"the {what} is not finite at step {step}, so training stops; the last checkpoint is intact. Lower "
        "optimizer.lr, or set optimizer.clip_norm = 1.0."
    )


@dataclass(frozen=True)
class StepNumbers:
    """What one step told.

    Attributes:
        loss: value of the loss.
        active: share of its terms that are not zero.
        positive_similarity: mean similarity of positive pairs; NaN where there is none.
        negative_similarity: the same of negative pairs.
        spread: how far the embeddings of the batch lie apart (`spread`).
        gradient_norm: before clipping.
    """

    loss: float
    active: float
    positive_similarity: float
    negative_similarity: float
    spread: float
    gradient_norm: float


def spread(embeddings: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """Return the mean squared distance to the mean: 0 when all are alike, 1 when they point everywhere."""
    embeddings = embeddings.detach().float()
    return (embeddings - embeddings.mean(0)).square().sum(1).mean()


def numbers_of(
    value: Float[Tensor, ""], embeddings: Float[Tensor, "n dim"], loss: Loss, norm: Float[Tensor, ""]
) -> Float[Tensor, "6"]:
    """Return a step's numbers in the order of `StepNumbers`, in one tensor: one wait for the device.

    Args:
        value: of the loss.
        embeddings: of the batch.
        loss: what computed it, with what it saw.
        norm: of the gradient.
    """
    last = loss.last
    assert last is not None
    seen = (last.active, last.positive_similarity, last.negative_similarity)
    values = (value, *seen, spread(embeddings), norm)
    return torch.stack([v.detach().to(embeddings.device, torch.float32).reshape(()) for v in values])


class Watch:
    """Counts how often in a row a fault was seen and warns once of each; its counts are part of a checkpoint.

    Args:
        settings: of the loss; ``margin`` is looked at.
        tell: takes the text of a warning.
    """

    def __init__(self, settings: Mapping[str, Any], tell: Callable[[str], None]) -> None:
        margin = settings.get("margin")
        self._margin = float(margin) if isinstance(margin, int | float) and margin > 0 else None
        self._tell = tell
        self._seen = dict.fromkeys(PATIENCE, 0)
        self._told: list[str] = []

    def look(self, step: int, numbers: StepNumbers) -> None:
        """Take the numbers of a step and warn of what has lasted too long.

        Raises:
            TrainingDiverged: if the loss or the gradient is not finite.
        """
        if not math.isfinite(numbers.loss):
            raise diverged("loss", step)
        if not math.isfinite(numbers.gradient_norm):
            raise diverged("gradient", step)
        gap = numbers.positive_similarity - numbers.negative_similarity
        at_margin = self._margin is not None and abs(numbers.loss - self._margin) < 0.02 * self._margin
        faults = {
            "collapse": numbers.spread < COLLAPSED,
            "margin": at_margin and gap < 10 * GAP,
            "no_gap": not at_margin and numbers.spread >= COLLAPSED and gap < GAP,
            "no_positives": math.isnan(numbers.positive_similarity),
        }
        for fault, now in faults.items():
            self._count(fault, now, **asdict(numbers), margin=self._margin)

    def look_at_memory(self, drift: float) -> None:
        """Take the mean cosine of embeddings with their older versions in memory."""
        self._count("drift", drift < DRIFTED, drift=drift)

    def look_at_ties(self, tied: float) -> None:
        """Take the share of validation images whose result hangs on equal similarities."""
        if tied > TIED:
            self._tell_once("ties", tied=tied)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return {"seen": dict(self._seen), "told": list(self._told)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the counts of a checkpoint."""
        self._seen = dict(state["seen"])
        self._told = list(state["told"])

    def _count(self, fault: str, now: bool, **values: Any) -> None:
        self._seen[fault] = self._seen[fault] + 1 if now else 0
        if self._seen[fault] >= PATIENCE[fault]:
            self._tell_once(fault, **values)

    def _tell_once(self, fault: str, **values: Any) -> None:
        if fault not in self._told:
            self._told.append(fault)
            self._tell(_texts[fault].format(**values))
