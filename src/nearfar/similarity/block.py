"""Two sets of vectors and who meets whom: what every backend is asked for."""

from collections.abc import Callable, Sequence
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor

from nearfar.similarity.interval import Interval
from nearfar.similarity.measure import Measure
from nearfar.similarity.reductions import Reduction
from nearfar.similarity.relation import Relation
from nearfar.similarity.stored import Stored


class Block(Protocol):
    """Anchors against candidates, as one backend computes them.

    Similarity is always larger for nearer: the Euclidean measures give the negated distance.
    """

    measure: Measure
    relation: Relation

    def __len__(self) -> int:
        """Return the number of anchors."""
        ...

    @property
    def anchors(self) -> Float[Tensor, "anchor dim"]:
        """The anchors' vectors as they are compared (unit length for the cosine), in the order given."""
        ...

    @property
    def candidates(self) -> Float[Tensor, "candidate dim"]:
        """The candidates' vectors as they are compared, in the order given, the stored ones last (copied)."""
        ...

    @property
    def parts(self) -> tuple[Float[Tensor, "given dim"], Stored | None]:
        """The candidates in two parts: those that may have gradient, and those that a memory stores."""
        ...

    def positives(
        self, anchor: Int[Tensor, " pair"], candidate: Int[Tensor, " pair"]
    ) -> Float[Tensor, " pair"]:
        """Return the similarity of the positive pairs listed, differentiable."""
        ...

    def at(self, anchor: Int[Tensor, " pair"], candidate: Int[Tensor, " pair"]) -> Float[Tensor, " pair"]:
        """Return the similarity of any pairs, differentiable; for a few pairs per anchor."""
        ...

    def stream(
        self, interval: Interval, owners: Int[Tensor, " positive"], reductions: Sequence[Reduction]
    ) -> tuple[Tensor, ...]:
        """Reduce each anchor's negatives that lie in ``interval``, in one pass for all ``reductions``.

        Args:
            owners: the anchor of each positive pair, for reductions ``per="positive"``.

        Returns:
            One tensor per reduction, [anchor], [positive] or [candidate], differentiable in the vectors and
            in thresholds that carry gradient.
        """
        ...

    def map(
        self, change: Callable[[Tensor], Tensor], candidates: Callable[[Tensor], Tensor] | None = None
    ) -> "Block":
        """Return the same comparisons of changed vectors; ``change`` works row by row.

        Args:
            candidates: what is done to the candidates instead, where they are not the anchors.
        """
        ...


class Build(Protocol):
    """Makes a block; the very same tensor as anchors and as candidates is a batch against itself."""

    def __call__(
        self,
        anchors: Tensor,
        candidates: Tensor,
        measure: Measure,
        relation: Relation,
        stored: Stored | None = None,
    ) -> Block:
        """Compare anchors with candidates and, after them, with what is stored."""
        ...
