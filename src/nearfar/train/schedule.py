"""Learning rates as pure functions of the step, so that a resumed run needs no state for them."""

import math
from dataclasses import dataclass
from typing import Literal


def warm_up(step: int, steps: int) -> float:
    """Rise linearly: 1/steps at step 0, 1 from step ``steps - 1`` on.

    >>> [warm_up(step, 4) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / steps) if steps > 0 else 1.0


def cosine(step: int, steps: int) -> float:
    """Fall along half a cosine from 1 at step 0 towards 0 at ``steps``.

    >>> [round(cosine(step, 4), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    return 0.5 * (1.0 + math.cos(math.pi * min(step, steps) / steps)) if steps > 0 else 1.0


def staircase(epoch: int, every: int, gamma: float) -> float:
    """Multiply by ``gamma`` after each ``every`` epochs.

    >>> [staircase(epoch, 2, 0.5) for epoch in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    return gamma ** (epoch // every)


@dataclass(frozen=True)
class Schedule:
    """The factor of the learning rate at each step of a run.

    Attributes:
        kind: "cosine", "step" or "constant".
        steps_per_epoch: steps in one epoch.
        epochs: epochs of the whole run.
        warmup_epochs: length of the linear rise; a part of an epoch will do.
        step_epochs: epochs between the falls of "step".
        gamma: size of a fall of "step".
    """

    kind: Literal["cosine", "step", "constant"]
    steps_per_epoch: int
    epochs: int
    warmup_epochs: float = 0.0
    step_epochs: int = 10
    gamma: float = 0.1

    def factor(self, step: int, start: int = 0) -> float:
        """Return the factor at ``step``, for weights that begin to learn at step ``start``.

        Weights that rest at first (``head_only_epochs``) warm up when they begin; all fall together.
        """
        warmup = round(self.warmup_epochs * self.steps_per_epoch)
        rise = warm_up(step - start, warmup)
        if self.kind == "cosine":
            return rise * cosine(max(0, step - warmup), self.epochs * self.steps_per_epoch - warmup)
        if self.kind == "step":
            return rise * staircase(step // self.steps_per_epoch, self.step_epochs, self.gamma)
        return rise
