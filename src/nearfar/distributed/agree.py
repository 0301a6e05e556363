"""What ranks decide together: votes, what rank 0 has, and waiting for each other."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from nearfar.distributed.rows import highest, together, total
from nearfar.distributed.world import group, in_all, rank, world_size

Value = TypeVar("Value")


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """Return for each flag whether any rank has it; every rank must call this."""
    if world_size() == 1:
        return flags
    return tuple(bool(flag) for flag in highest(torch.tensor(flags, dtype=torch.uint8)).tolist())


def of_rank_0(value: Value) -> Value:
    """Return what rank 0 calls this with, on every rank; it must be able to be pickled."""
    if world_size() == 1:
        return value
    carried = [value if rank() == 0 else None]
    dist.broadcast_object_list(carried, in_all(0), group=group(), device=torch.device("cpu"))
    return carried[0]  # pyrefly: ignore


def by_rank_0(work: Callable[[], Value]) -> Value:
    """Return what ``work`` returns on rank 0, on every rank; a NearfarError there is raised on all."""
    value: Value | None = None
    with together():
        if rank() == 0:
            value = work()
    return of_rank_0(value)  # pyrefly: ignore


def wait_for_all() -> None:
    """Return when every rank has come here."""
    total(torch.zeros(1))
