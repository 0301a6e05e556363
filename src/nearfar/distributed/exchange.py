"""What one rank tells the others: plain collectives, without gradient. Every rank must call each of them."""

from collections.abc import Sequence
from math import prod

import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nearfar.distributed.world import group, in_all, rank, world_size


def numbers_of_all(own: Sequence[int], device: torch.device) -> list[list[int]]:
    """Return the whole numbers of each rank; all have as many."""
    sent = torch.tensor(own, dtype=torch.int64, device=device)
    every = sent.new_empty(world_size() * len(own))
    dist.all_gather_single(every, sent, group=group())
    return every.view(world_size(), -1).tolist()


def rows_of_all(rows: Shaped[Tensor, "row *rest"], counts: Sequence[int]) -> Shaped[Tensor, "all *rest"]:
    """Return the rows of all ranks in rank order, bit for bit; ranks may have different numbers of them."""
    most, rest = max(counts), rows.shape[1:]
    # A collective moves the same size from every rank: the shorter are filled up. Bytes are of any type.
    sent = rows.detach()
    if len(sent) < most:
        sent = torch.cat([sent, sent.new_zeros(most - len(sent), *rest)])
    sent = sent.contiguous()
    every = sent.new_empty(len(counts) * most, *rest)
    dist.all_gather_single(every.view(-1).view(torch.uint8), sent.view(-1).view(torch.uint8), group=group())
    if min(counts) == most:
        return every
    parts = every.view(len(counts), most, *rest)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def sent_home(gradient: Float[Tensor, "all dim"], counts: Sequence[int]) -> Float[Tensor, "row dim"]:
    """Return the sum over ranks of what each has for this rank's rows."""
    most = max(counts)
    padded = gradient
    if min(counts) < most:
        padded = gradient.new_zeros(len(counts), most, gradient.shape[1])
        for part, own in zip(padded, gradient.split(list(counts)), strict=True):
            part[: len(own)] = own
        padded = padded.flatten(0, 1)
    own = padded.new_empty(most, padded.shape[1])
    dist.reduce_scatter_single(own, padded.contiguous(), group=group())
    return own[: counts[rank()]]


def sent_to(
    owner: Int[Tensor, " all"], rows: Shaped[Tensor, "row *rest"], counts: Sequence[int]
) -> Shaped[Tensor, "mine *rest"]:
    """Return the rows, of all ranks and in their order, that are for this rank, bit for bit.

    Args:
        owner: the rank that each row of all ranks is for, -1 for none; every rank says the same.
        counts: rows of each rank.
    """
    each = owner.split(list(counts))
    own = each[rank()]
    order = torch.argsort(own, stable=True)
    leaving = [int((own == k).sum()) for k in range(len(counts))]
    arriving = [int((part == rank()).sum()) for part in each]
    sent = rows.detach()[order[len(own) - sum(leaving) :]].contiguous()
    found = sent.new_empty(sum(arriving), *sent.shape[1:])
    size = sent.element_size() * prod(sent.shape[1:])  # bytes are of any type
    dist.all_to_all_single(
        found.view(-1).view(torch.uint8),
        sent.view(-1).view(torch.uint8),
        [n * size for n in arriving],
        [n * size for n in leaving],
        group=group(),
    )
    return found


def of_first(values: Int[Tensor, " value"]) -> Int[Tensor, " value"]:
    """Return what rank 0 has."""
    values = values.clone()
    dist.broadcast(values, in_all(0), group=group())
    return values
