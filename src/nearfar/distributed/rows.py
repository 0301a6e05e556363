"""The rows of all ranks as one tensor, differentiable: what the gradient of a sum of losses needs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from nearfar.distributed.world import group, in_all, rank, world_size
from nearfar.errors import NearfarError


def row_counts(rows: Shaped[Tensor, "row *rest"]) -> list[int]:
    """Return how many rows each rank has; every rank must call this.

    Raises:
        NearfarError: if the ranks' rows differ in size or type.
    """
    if world_size() == 1:
        return [len(rows)]
    own = torch.tensor([len(rows), prod(rows.shape[1:]), rows.element_size()], device=rows.device)
    every = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(every, own, group=group())
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


def total(values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Return the sum of the ranks' values, on every rank; no gradient."""
    return _reduced(values, dist.ReduceOp.SUM) if world_size() > 1 else values


def highest(values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Return the largest of the ranks' values, on every rank; no gradient."""
    return _reduced(values, dist.ReduceOp.MAX) if world_size() > 1 else values


def around_the_ring(
    *rows: Shaped[Tensor, "..."], counts: Sequence[int] | None = None
) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Yield the parts that the ranks have, the own one first, each with the rank that it is of.

    A rank holds two parts at a time and passes one on to the next rank, while the caller works on it. Every
    rank must take all of them.

    Args:
        rows: tensors with a row for each item; ranks may have different numbers of them.
        counts: rows of each rank, where they are known.

    Raises:
        NearfarError: if the ranks' rows differ in size or type.
    """
    parts = tuple(x.detach().contiguous() for x in rows)
    if counts is None:
        counts, *_ = [row_counts(x) for x in parts]
    size, own = world_size(), rank()
    after, before = in_all((own + 1) % size), in_all((own - 1) % size)
    for step in range(size):
        owner, following = (own - step) % size, (own - step - 1) % size
        coming = tuple(x.new_empty(counts[following], *x.shape[1:]) for x in parts)
        jobs: list[dist.P2POp] = []
        if step + 1 < size and counts[owner]:
            jobs += [dist.P2POp(dist.isend, x, after, group()) for x in parts]
        if step + 1 < size and counts[following]:
            jobs += [dist.P2POp(dist.irecv, x, before, group()) for x in coming]
        under_way = dist.batch_isend_irecv(jobs) if jobs else []
        yield owner, parts
        for job in under_way:
            job.wait()
        parts = coming


@contextmanager
def together() -> Iterator[None]:
    """Raise on every rank the NearfarError that is raised on one, of several that of the lowest rank.

    Every rank must leave this context, so nothing inside may wait for other ranks.
    """
    own: NearfarError | None = None
    try:
        yield
    except NearfarError as error:
        own = error
    if world_size() == 1:
        if own is not None:
            raise own
        return
    every: list[NearfarError | None] = [None] * world_size()
    dist.all_gather_object(every, own, group=group())
    for error in every:
        if error is not None:
            raise error


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.own = slice(sum(counts[: rank()]), sum(counts[: rank() + 1]))
        # A collective moves the same size from every rank: the shorter are filled up.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=group())
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        total = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group())
        return total[ctx.own], None


def _reduced(values: Tensor, how: Any) -> Tensor:
    result = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result, how, group=group())
    return result
