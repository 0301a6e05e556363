"""A loss that is computed again in the backward pass: ``torch.utils.checkpoint`` with a memory inside.

What is computed again must meet the memory as it was the first time, and is not to be stored twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nearfar.errors import NearfarError

NEAR = 0.01
"""Share of their length by which rows that are computed again may differ."""


@dataclass(eq=False)
class LastBatch:
    """The batch that was taken in last, and what it has gone over.

    Attributes:
        slots: the slot of each row, -1 for none; None where it was not stored.
        counted: the counters before it.
        over: the name of what was written to, the places, and what was there; nothing for a new memory.
    """

    embeddings: Tensor
    labels: Tensor
    counted: dict[str, int]
    slots: Tensor | None = None
    over: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)

    def check(self, embeddings: Tensor, labels: Tensor) -> None:
        """Refuse another batch than this one.

        Raises:
            NearfarError: if it is another.
        """
        one, other = self.embeddings, embeddings.detach()
        if one.shape == other.shape and torch.equal(self.labels, labels):
            far = torch.linalg.vector_norm(one.to(other) - other)
            if not bool(far > NEAR * torch.linalg.vector_norm(other)):
                return
        raise NearfarError(
            "a loss with a memory is computed again in the backward pass, of a batch that is not the last "
            "that the memory took in; call backward() after each loss, or keep the loss out of "
            "torch.utils.checkpoint."
        )

    def before(self, rows: dict[str, Tensor | None]) -> dict[str, Any]:
        """Return what the memory held before this batch, from what it holds now."""
        if self.slots is None:
            return {**rows, **self.counted}
        if not self.counted["added"]:
            return {**dict.fromkeys(rows), **self.counted}
        restored = {name: value if value is None else value.clone() for name, value in rows.items()}
        for name, places, values in self.over:
            there = restored[name]
            assert there is not None
            there[places] = values
        return {**restored, **self.counted}


def in_backward() -> bool:
    """Whether this is called from within a backward pass."""
    return torch._C._current_graph_task_id() != -1


def overwritten(*groups: Sequence[tuple[str, Tensor | None, Tensor]]) -> list[tuple[str, Tensor, Tensor]]:
    """Note what is where rows are about to go: (name, what is kept under it, the places)."""
    return [(name, where, kept[where]) for some in groups for name, kept, where in some if kept is not None]
