"""Learning rates as pure functions of the step, so that a resumed run needs no state for them."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nearfar.config import Optimizer

Kind = Literal["cosine", "step", "multistep", "exp", "inv", "poly", "constant"]


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


def staircase(step: int, every: int, gamma: float) -> float:
    """Multiply by ``gamma`` after each ``every`` steps: gamma^⌊step / every⌋.

    >>> [staircase(step, 2, 0.5) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    return gamma ** (step // every)


def falls(step: int, values: Sequence[int], gamma: float) -> float:
    """Multiply by ``gamma`` at each step in ``values``, which ascend.

    >>> [falls(step, (1, 3), 0.5) for step in range(5)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """
    return gamma ** bisect_right(values, step)


def inverse(step: int, gamma: float, power: float) -> float:
    """Fall as (1 + gamma · step)^(-power).

    >>> [inverse(step, 1.0, 2.0) for step in range(3)]
    [1.0, 0.25, 0.1111111111111111]
    """
    return (1.0 + gamma * step) ** -power


def polynomial(step: int, steps: int, power: float) -> float:
    """Fall as (1 - step / steps)^power, to 0 at ``steps``.

    >>> [polynomial(step, 4, 2.0) for step in range(5)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0]
    """
    return (1.0 - min(step, steps) / steps) ** power


@dataclass(frozen=True)
class Schedule:
    """The factor of the learning rate at each step of a run.

    All but "cosine" count from the first step, warm-up included; "cosine" begins when the warm-up ends.

    Attributes:
        kind: how the rate falls, see `factor`.
        steps: of the whole run.
        warmup: steps of the linear rise.
        every: steps between the falls of "step".
        values: steps at which "multistep" falls, ascending.
        gamma: size of a fall of "step" and "multistep", of each step of "exp"; slope of "inv".
        power: exponent of "poly" and "inv".
    """

    kind: Kind
    steps: int
    warmup: int = 0
    every: int = 1
    values: tuple[int, ...] = ()
    gamma: float = 0.1
    power: float = 1.0

    @classmethod
    def of(cls, wanted: Optimizer, steps: int, epoch: int) -> "Schedule":
        """Return the schedule of a run of ``steps`` steps, ``epoch`` of which make an epoch."""
        every = wanted.step_epochs * epoch if wanted.step_size is None else wanted.step_size
        return cls(
            wanted.schedule,
            steps,
            warmup=round(wanted.warmup_epochs * epoch),
            every=every,
            values=wanted.step_values or (),
            gamma=wanted.gamma,
            power=1.0 if wanted.power is None else wanted.power,
        )

    def factor(self, step: int, start: int = 0) -> float:
        """Return the factor at ``step``, for weights that begin to learn at step ``start``.

        Weights that rest at first (``head_only_epochs``) warm up when they begin; all fall together.
        """
        return warm_up(step - start, self.warmup) * self._fall(step)

    def _fall(self, step: int) -> float:
        match self.kind:
            case "cosine":
                return cosine(max(0, step - self.warmup), self.steps - self.warmup)
            case "step":
                return staircase(step, self.every, self.gamma)
            case "multistep":
                return falls(step, self.values, self.gamma)
            case "exp":
                return self.gamma**step
            case "inv":
                return inverse(step, self.gamma, self.power)
            case "poly":
                return polynomial(step, self.steps, self.power)
        return 1.0
