"""What a memory holds, as one batch sees it."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nearfar.inputs import Labels, relate
from nearfar.similarity import Relation
from nearfar.similarity.stored import Stored


@dataclass(frozen=True, eq=False)
class Recalled:
    """Candidates of past steps, without gradient.

    Attributes:
        own: the slot that holds each row of the batch, or -1; None while the batch is not in the memory.
        with_batch: the candidates are the batch and the memory, not the memory alone.
        weight: how much this comparison counts beside that of the batch with itself.
    """

    stored: Stored
    labels: Int[Tensor, " m"] | Bool[Tensor, "m tag"]
    ids: Int[Tensor, " m"] | None
    own: Int[Tensor, " n"] | None
    with_batch: bool
    weight: float = 1.0

    def relate(self, n: int, labels: Labels, ids: Tensor | None) -> Relation:
        """Say what each of n anchors is to each candidate: the batch, where it is one, then the memory."""
        assert isinstance(labels, Tensor)
        own, others, names = self.own, self.labels, self.ids
        if self.with_batch:
            own = torch.arange(n, device=labels.device)
            others = torch.cat([labels.to(others.dtype), others])
            names = None if names is None or ids is None else torch.cat([ids.to(names.dtype), names])
        return relate(n, labels, len(others), others, own=own, ids=ids, candidate_ids=names)

    def copied(self) -> "Recalled":
        """Return the same, unmoved by what the memory takes in later."""
        return replace(self, stored=self.stored.copied())
