"""What a memory holds, as one batch sees it."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nearfar.inputs import Labels, relate
from nearfar.memory.ranks import by_rank, gathered
from nearfar.similarity import Relation
from nearfar.similarity.stored import Stored


@dataclass(frozen=True, eq=False)
class Recalled:
    """Candidates of past steps, without gradient.

    Attributes:
        stored: the rows; of a memory that is sharded, those of this rank.
        own: the slot that holds each row of the batch, or -1; None while the batch is not in the memory.
        with_batch: the candidates are the batch and the memory, not the memory alone.
        weight: how much this comparison counts beside that of the batch with itself.
        counts: rows of each rank; None where all are here.
    """

    stored: Stored
    labels: Int[Tensor, " m"] | Bool[Tensor, "m tag"]
    ids: Int[Tensor, " m"] | None
    own: Int[Tensor, " n"] | None
    with_batch: bool
    weight: float = 1.0
    counts: list[int] | None = None

    def relate(self, n: int, labels: Labels, ids: Tensor | None) -> Relation:
        """Say what each of n anchors is to each candidate: the batch, where it is one, then the memory."""
        assert isinstance(labels, Tensor)
        own, others, names = self.own, self.labels, self.ids
        if self.with_batch:
            own = torch.arange(n, device=labels.device)
            others = torch.cat([labels.to(others.dtype), others])
            names = None if names is None or ids is None else torch.cat([ids.to(names.dtype), names])
        relation = relate(n, labels, len(others), others, ids=ids, candidate_ids=names)
        return replace(relation, own_columns=own)

    def copied(self) -> "Recalled":
        """Return the same, unmoved by what the memory takes in later."""
        return replace(self, stored=self.stored.copied())

    def whole(self) -> "Recalled":
        """Return the same with the rows of all ranks; where they are sharded, every rank must call this."""
        if self.counts is None:
            return self
        rows, inverse = (gathered(x, len(self.labels)) for x in self._travelling)
        return replace(self, stored=replace(self.stored, rows=rows, inverse=inverse), counts=None)

    def by_rank(self) -> "Recalled":
        """Return the same with the slots in the order of ranks, to be seen a rank at a time."""
        order = by_rank(len(self.labels), self.labels.device)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        own = self.own
        if own is not None and len(place):
            own = torch.where(own < 0, own, place[own.clamp_min(0)])
        rows, inverse = self._travelling
        return replace(
            self,
            stored=replace(self.stored, rows=rows, inverse=inverse),
            labels=self.labels[order],
            ids=None if self.ids is None else self.ids[order],
            own=own,
        )

    @property
    def _travelling(self) -> tuple[Tensor, Tensor]:
        """The rows of this rank, where other ranks can be sent them."""
        device = self.stored.like.device
        return self.stored.rows.to(device), self.stored.inverse.to(device)
