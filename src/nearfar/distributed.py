"""Which rank this process is, and the rows of all ranks as one tensor. The only user of torch.distributed."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from nearfar.errors import NearfarError


def world_size() -> int:
    """Return the number of ranks; 1 where torch.distributed is not running."""
    return dist.get_world_size() if _running() else 1


def rank() -> int:
    """Return this process's place among the ranks; 0 where torch.distributed is not running."""
    return dist.get_rank() if _running() else 0


def row_counts(rows: Shaped[Tensor, "row *rest"]) -> list[int]:
    """Return how many rows each rank has; every rank must call this.

    Raises:
        NearfarError: if the ranks' rows differ in size or type.
    """
    if world_size() == 1:
        return [len(rows)]
    own = torch.tensor([len(rows), prod(rows.shape[1:]), rows.element_size()], device=rows.device)
    every = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(every, own)
    kinds = [tuple(kind.tolist()) for kind in every]
    for other, (_, numbers, size) in enumerate(kinds):
        if (numbers, size) != kinds[rank()][1:]:
            raise NearfarError(
                f"rank {rank()} has rows of {kinds[rank()][1]} numbers of {rows.element_size()} bytes but "
                f"rank {other} has {numbers} of {size} bytes; all ranks need the same kind of rows."
            )
    return [count for count, _, _ in kinds]


def gather_rows(
    rows: Shaped[Tensor, "row *rest"], counts: Sequence[int] | None = None
) -> Shaped[Tensor, "all *rest"]:
    """Return the rows of all ranks, in rank order, on every rank; differentiable.

    Ranks may have different numbers of rows. Every rank must call this, and its backward pass too: the
    gradient of a rank's rows is the sum of what *all* ranks do with them, dx = Σ_k (dL_k/d gathered)[own].
    So it is the gradient of the sum of the ranks' losses, and the mean over ranks that data-parallel
    training takes of parameter gradients is that of the mean loss.

    Args:
        counts: rows of each rank, where ``row_counts`` has been asked already.

    Raises:
        NearfarError: if the ranks' rows differ in size or type.
    """
    counts = row_counts(rows) if counts is None else list(counts)
    if len(counts) == 1:
        return rows
    return _Gathered.apply(rows, counts)  # pyrefly: ignore


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.own = slice(sum(counts[: rank()]), sum(counts[: rank() + 1]))
        # A collective moves the same size from every rank: the shorter are filled up.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        total = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.own], None


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()
