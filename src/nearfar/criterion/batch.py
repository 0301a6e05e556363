"""What a loss is called with, by one rank or, put together, by all of them."""

from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from nearfar.inputs import Labels
from nearfar.similarity.stable import places_in


@dataclass(frozen=True, eq=False)
class Batch:
    """The arguments of a loss; see ``Loss.forward``."""

    embeddings: Float[Tensor, "n dim"]
    labels: Labels
    candidates: Float[Tensor, "m dim"] | None = None
    candidate_labels: Int[Tensor, " m"] | Int[Tensor, "m tag"] | None = None
    weights: Float[Tensor, " n"] | None = None
    ids: Int[Tensor, " n"] | None = None
    candidate_ids: Int[Tensor, " m"] | None = None

    def labelled(self, unlabelled: int) -> "tuple[Batch, Int[Tensor, ' kept'] | None]":
        """Return the batch without the rows of one label, and which anchors are left; None for all.

        What does not fit together is left as it is, to be refused as it was given.
        """
        x, y = self.embeddings, self.candidates
        kept = _others(x, self.labels, (self.weights, self.ids), unlabelled)
        kept_candidates = (
            None if y is None else _others(y, self.candidate_labels, (self.candidate_ids,), unlabelled)
        )
        fewer = self
        if kept is not None:
            names = ("embeddings", "labels", "weights", "ids")
            fewer = replace(fewer, **{name: _taken(getattr(self, name), kept) for name in names})
        if kept_candidates is not None:
            names = ("candidates", "candidate_labels", "candidate_ids")
            fewer = replace(fewer, **{name: _taken(getattr(self, name), kept_candidates) for name in names})
        return fewer, kept


def _others(
    rows: Tensor, labels: Labels | None, more: tuple[Tensor | None, ...], unlabelled: int
) -> Int[Tensor, " kept"] | None:
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        return None
    of_rows = (rows, *(x for x in more if x is not None))
    if any(not isinstance(x, Tensor) or not x.ndim or len(x) != len(labels) for x in of_rows):
        return None
    return places_in(labels.ne(unlabelled))


def _taken(x: Tensor | None, kept: Tensor) -> Tensor | None:
    return None if x is None else x.index_select(0, kept.to(x.device))
