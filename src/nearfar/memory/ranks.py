"""Slots of a memory dealt out to the ranks: slot s is place s // W of rank s % W, of W ranks.

Every rank knows the labels and ids of all slots, and so who sends which row to whom: ranks never have to ask.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nearfar.distributed import around_the_ring, rank, total, world_size
from nearfar.distributed.exchange import rows_of_all, sent_to
from nearfar.similarity.stable import full_precision, normalize


def dealt(count: int) -> list[int]:
    """Return how many of the first ``count`` slots each rank has."""
    return [len(range(k, count, world_size())) for k in range(world_size())]


def own_part(slots: Shaped[Tensor, "slot *rest"]) -> Shaped[Tensor, "mine *rest"]:
    """Return this rank's part of what all slots hold."""
    return slots[rank() :: world_size()].clone()


def by_rank(count: int, device: torch.device) -> Int[Tensor, " slot"]:
    """Return the first ``count`` slots in the order of ranks: those of rank 0, those of rank 1, …."""
    every = torch.arange(count, device=device)
    return torch.cat([every[k :: world_size()] for k in range(world_size())])


def gathered(part: Shaped[Tensor, "mine *rest"], count: int) -> Shaped[Tensor, "slot *rest"]:
    """Return what the first ``count`` slots hold, in their order, on every rank."""
    counts = dealt(count)
    every = part.new_zeros(len(counts) * counts[0], *part.shape[1:])
    for k, rows in enumerate(rows_of_all(part[: counts[rank()]], counts).split(counts)):
        every[k :: len(counts)][: len(rows)] = rows
    return every[:count]


def put_together(part: Shaped[Tensor, "mine *rest"], size: int) -> Shaped[Tensor, "slot *rest"]:
    """Return what all slots hold, in main memory, on every rank; two parts at a time lie with ``part``."""
    every = torch.empty(size, *part.shape[1:], dtype=part.dtype)
    for owner, (rows,) in around_the_ring(part, counts=dealt(size)):
        every[owner :: world_size()] = rows.cpu()
    return every


def finite_rows(rows: Float[Tensor, "row dim"], counts: Sequence[int]) -> Int[Tensor, " finite"]:
    """Return which rows of all ranks are finite."""
    return torch.nonzero(rows_of_all(rows.isfinite().all(1), counts)).squeeze(1)


def rows_to_store(
    rows: Float[Tensor, "row dim"], slots: Int[Tensor, " all"], counts: Sequence[int] | None
) -> tuple[Float[Tensor, "mine dim"], Int[Tensor, " mine"]]:
    """Return the rows that this rank keeps, and the places where.

    Args:
        rows: of this rank; of all where ``counts`` is None.
        slots: where the row of each rank goes, -1 for nowhere.
        counts: rows of each rank.
    """
    owner = torch.where(slots < 0, -1, slots % world_size())
    mine = owner == rank()
    kept = rows[mine] if counts is None else sent_to(owner, rows, counts)
    return kept, slots[mine] // world_size()


def drift(
    rows: Float[Tensor, "row dim"],
    counts: Sequence[int],
    pairs: tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]],
    stored: Float[Tensor, "mine dim"],
) -> Float[Tensor, ""]:
    """Return the mean cosine of rows with what is stored of the same image.

    Args:
        rows: of this rank.
        counts: rows of each rank.
        pairs: (row of all ranks, slot), ordered by row.
        stored: what this rank keeps.
    """
    row, slot = pairs
    edges = [sum(counts[:k]) for k in range(len(counts) + 1)]
    edges = torch.searchsorted(row, torch.tensor(edges, device=row.device)).tolist()
    each = [stop - start for start, stop in pairwise(edges)]
    own = row[edges[rank()] : edges[rank() + 1]] - sum(counts[: rank()])
    owner = slot % world_size()
    newer = sent_to(owner, normalize(full_precision(rows))[own], each)
    place = slot[owner == rank()] // world_size()
    older = normalize(stored[place.to(stored.device)].to(newer))
    return total((newer * older).sum()) / len(row)
