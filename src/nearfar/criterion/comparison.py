"""What the anchors of a batch are compared with: the batch, candidates, rows of other ranks, a memory."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.criterion.batch import Batch
from nearfar.distributed.ring import Ring
from nearfar.inputs import relate
from nearfar.losses.parts.registry import View
from nearfar.memory.recalled import Recalled
from nearfar.pairs import Pairs
from nearfar.similarity import Measure, Relation, choose
from nearfar.similarity.stored import Stored
from nearfar.similarity.tiled.from_ranks import VisitedBlock


@dataclass(frozen=True, eq=False)
class Comparison:
    """Anchors, and all they meet.

    Attributes:
        anchors, candidates: vectors as they are compared; the same tensor for a batch against itself.
        ring: candidates that come by, in place of ``candidates``.
        counts: how many of each rank come by; none where all that is compared with is stored.
        stored: further candidates, without gradient.
        stored_counts: how many of each rank come by, where ``stored`` is what this one has.
    """

    anchors: Float[Tensor, "anchor dim"]
    candidates: Float[Tensor, "candidate dim"]
    ring: Ring | None
    counts: list[int]
    relation: Relation
    measure: Measure
    backend: str
    stored: Stored | None
    stored_counts: list[int] | None
    view: partial[Tensor]

    @property
    def width(self) -> int:
        """How many candidates there are."""
        given = len(self.candidates) if self.ring is None else sum(self.counts)
        if self.stored_counts is not None:
            return given + sum(self.stored_counts)
        return given + (0 if self.stored is None else len(self.stored))

    def pairs(self) -> Pairs:
        """Compare all anchors."""
        return self._pairs(self.relation, self.anchors, self.candidates)

    def some(self, rows: Int[Tensor, " some"], anchors: Tensor, candidates: Tensor) -> Pairs:
        """Compare the anchors in ``rows``; the vectors are given once more."""
        return self._pairs(self.relation.take(rows), anchors[rows], candidates)

    def _pairs(self, relation: Relation, anchors: Tensor, candidates: Tensor) -> Pairs:
        if self.ring is None:
            return Pairs.of(
                anchors, candidates, relation, self.measure, self.backend, self.stored, table=True
            )
        build = choose(self.backend, len(anchors), max([*self.ring.counts, *(self.stored_counts or [])]))
        given = (anchors, self.ring, self.measure, relation, build, self.view)
        return Pairs.over(VisitedBlock(*given, self.stored, self.counts, self.stored_counts))


def compare(
    embeddings: Tensor,
    others: Tensor | Ring | None,
    batch: Batch,
    rows: Int[Tensor, " anchor"] | None,
    n: int,
    recalled: Recalled | None,
    view: View | None,
    similarity: Measure,
    backend: str,
) -> Comparison:
    """Relate anchors to candidates.

    Args:
        others: what to compare with, where it is not the anchors themselves.
        rows: which of the batch's ``n`` rows the anchors are; None for all.
        recalled: what a memory holds.
        view: what is compared, where it is not the embeddings by the similarity asked for.
    """
    seen = partial(_seen, view, similarity)
    anchors, measure = (embeddings, similarity) if view is None else view(embeddings, similarity)
    ring = others if isinstance(others, Ring) else None
    candidates = seen(others) if isinstance(others, Tensor) else anchors
    counts = [] if ring is None else ring.counts
    labels, ids, stored, stored_counts = batch.labels, batch.ids, None, None
    if recalled is None:
        m = None
        if batch.candidates is not None:
            m = len(candidates) if ring is None else sum(ring.counts)
        relation = relate(n, labels, m, batch.candidate_labels, ids=ids, candidate_ids=batch.candidate_ids)
    else:
        assert isinstance(labels, Tensor), "a memory takes classes or tags"
        if ring is None:
            recalled = recalled.whole()
        elif recalled.counts is not None:
            recalled, stored_counts = recalled.by_rank(), recalled.counts
            ring.carry((recalled.stored.rows, recalled.stored.inverse), stored_counts)
        relation, stored = recalled.relate(n, labels, ids), recalled.stored
        if not recalled.with_batch:
            candidates, counts = candidates[:0], []
            ring = None if stored_counts is None else ring
        if view is not None:
            stored = stored.changed(seen)
    relation = relation if rows is None else relation.take(rows)
    return Comparison(
        anchors, candidates, ring, counts, relation, measure, backend, stored, stored_counts, seen
    )


def among_own(compared: Comparison, batch: Batch, rows: Int[Tensor, " anchor"] | None) -> Pairs | None:
    """Compare the anchors with each other alone; None where the labels do not tell."""
    labels, ids = batch.labels, batch.ids
    if not isinstance(labels, Tensor):
        return None
    if rows is not None:
        labels, ids = labels[rows], None if ids is None else ids[rows]
    with torch.no_grad():
        x = compared.anchors.detach()
        relation = relate(len(x), labels, ids=ids)
        return Pairs.of(x, x, relation, compared.measure, compared.backend, table=True)


def _seen(view: View | None, similarity: Measure, rows: Tensor) -> Tensor:
    return rows if view is None else view(rows, similarity)[0]
