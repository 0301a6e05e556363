"""The similarities that count: what mining by thresholds leaves of an anchor's negatives."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(eq=False)
class Interval:
    """Negatives with ``above < s < below``, open on both sides; None leaves a side unbounded.

    Attributes:
        above: lower bound of each anchor, without gradient.
        below: upper bound of each anchor, without gradient.
    """

    above: Float[Tensor, " anchor"] | None = None
    below: Float[Tensor, " anchor"] | None = None

    def __bool__(self) -> bool:
        return self.above is not None or self.below is not None

    def intersect(self, other: "Interval") -> "Interval":
        """Return the similarities that lie in both."""
        return Interval(
            above=_tighter(self.above, other.above, torch.maximum),
            below=_tighter(self.below, other.below, torch.minimum),
        )

    def holds(
        self, s: Float[Tensor, "row column"], rows: Int[Tensor, " row"] | None = None
    ) -> Bool[Tensor, "row column"]:
        """Say which similarities of the anchors in ``rows``, None for all, lie inside."""
        inside = torch.ones_like(s, dtype=torch.bool)
        if self.above is not None:
            inside &= s > (self.above if rows is None else self.above[rows])[:, None]
        if self.below is not None:
            inside &= s < (self.below if rows is None else self.below[rows])[:, None]
        return inside


EVERYTHING = Interval()


def _tighter(a: Tensor | None, b: Tensor | None, choose: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return choose(a, b)
