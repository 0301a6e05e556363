"""What mining keeps: positive pairs, and negatives that are named one by one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from nearfar.similarity import Reduction


@dataclass(frozen=True, eq=False)
class Positives:
    """The positive pairs, explicit and sparse, ordered by anchor.

    Attributes:
        anchor: row of each pair's anchor.
        candidate: row of each pair's candidate.
        similarity: larger is nearer (a Euclidean measure gives the negated distance); differentiable.
    """

    anchor: Int[Tensor, " positive"]
    candidate: Int[Tensor, " positive"]
    similarity: Float[Tensor, " positive"]

    def where(self, keep: Bool[Tensor, " positive"]) -> "Positives":
        """Return some of the pairs."""
        return Positives(self.anchor[keep], self.candidate[keep], self.similarity[keep])


@dataclass(frozen=True, eq=False)
class Chosen:
    """Explicit negatives: a few columns for each anchor, or one for each positive pair; -1 is none."""

    columns: Int[Tensor, "row k"]
    per: Literal["anchor", "positive"]


@dataclass(eq=False)
class Against:
    """Positives to be kept by what the negatives are: asked in the loss's own pass over the negatives.

    Attributes:
        reduction: what to ask the negatives, those that the narrowed pairs still have.
        keep: which positive pairs to keep, from the answer.
    """

    reduction: Reduction
    keep: Callable[[Tensor], Bool[Tensor, " positive"]]
    answer: Tensor | None = None
