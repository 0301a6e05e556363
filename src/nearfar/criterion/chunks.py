"""Some anchors at a time, where the positives of all are too many to list."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nearfar.losses.parts.terms import Terms

Compute = Callable[[Int[Tensor, " some"], Sequence[Tensor]], tuple[Terms, ...]]
"""(rows, inputs) -> what the anchors in these rows contribute"""


def by_chunks(compute: Compute, inputs: Sequence[Tensor], rows: int, size: int) -> tuple[Terms, ...]:
    """Compute ``size`` anchors at a time and, in the backward pass, once more: nothing of them is kept.

    Args:
        inputs: what may have gradient.
        rows: how many anchors there are.
    """

    def chunk(some: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(x for part in compute(some, inputs) for x in (part.total, part.count, part.active))

    columns, start = [], torch.get_rng_state()
    for some in torch.arange(rows, device=inputs[0].device).split(size):
        torch.set_rng_state(start)  # what a rule draws once for a batch is the same for all its anchors
        columns.append(checkpoint(chunk, some, *inputs, use_reentrant=False))
    whole = [torch.cat(column) for column in zip(*columns, strict=True)]
    return tuple(Terms(*whole[k : k + 3]) for k in range(0, len(whole), 3))
