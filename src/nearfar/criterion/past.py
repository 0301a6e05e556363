"""What a batch is compared with when a memory is given to a loss."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.inputs import Labels
from nearfar.memory import CrossBatchMemory
from nearfar.memory.recalled import Recalled

Share = tuple[float, Recalled | None]
"""(weight of a comparison, what it is with beside or instead of the batch)"""


def recall(
    memory: CrossBatchMemory | None,
    embeddings: Tensor,
    labels: Labels,
    candidates: Tensor | None,
    ids: Tensor | None,
    *,
    refusal: str | None,
    learning: bool,
    again: bool = False,
    counts: Sequence[int] | None = None,
) -> list[Share]:
    """Return the comparisons that make up the loss of a batch.

    Args:
        refusal: why this loss can do nothing with a memory, if so.
        learning, again: whether the memory takes part in this step; see ``meets``.
        counts: rows of each rank, where the memory is sharded and ``embeddings`` are of one rank.

    Raises:
        NearfarError: if the loss or the batch does not go with the memory.
    """
    if memory is None:
        return [(1.0, None)]
    _check(memory, candidates, refusal)
    past = memory.recall(embeddings, labels, ids, learning=learning, again=again, counts=counts)
    if past is None:
        return [(1.0, None)]
    # The batch with itself comes last: ``loss.last`` is about it.
    return [(past.weight, past), (1.0, None)] if memory.combine == "sum" else [(1.0, past)]


def meets(memory: CrossBatchMemory | None, training: bool) -> tuple[bool, bool]:
    """Say whether a call is a training step, which the memory takes part in, or the last one again."""
    return memory.meets(training) if isinstance(memory, CrossBatchMemory) else (False, False)


def dealt_out(memory: Any) -> bool:
    """Whether each rank has its own part of a memory, and adds its own rows to it."""
    return isinstance(memory, CrossBatchMemory) and memory.dealt_out


def _check(memory: Any, candidates: Tensor | None, refusal: str | None) -> None:
    if not isinstance(memory, CrossBatchMemory):
        raise NearfarError(f"memory must be a nearfar.CrossBatchMemory; got {type(memory).__name__}.")
    if refusal is not None:
        raise NearfarError(refusal)
    if candidates is not None:
        raise NearfarError("a memory adds to the batch, and candidates stand in for it; give one of them.")
