"""Which rank this process is, of how many."""

import torch
import torch.distributed as dist
from torch import Tensor

from nearfar.distributed.settings import settings
from nearfar.errors import NearfarError


def world_size() -> int:
    """Return the number of ranks; 1 where torch.distributed is not running."""
    return dist.get_world_size(group()) if _running() else 1


def rank() -> int:
    """Return this process's place among the ranks; 0 where torch.distributed is not running."""
    return dist.get_rank(group()) if _running() else 0


def group() -> dist.ProcessGroup | None:
    """Return the ranks that work together, None for all.

    Raises:
        NearfarError: if this process is none of them.
    """
    if settings.group is not None and dist.get_rank(settings.group) < 0:
        raise NearfarError(
            f"settings.group does not hold this process, rank {dist.get_rank()} of all; set it to the group "
            "that this rank is of (torch.distributed.new_subgroups returns that), or to None."
        )
    return settings.group


def in_all(place: int) -> int:
    """Return how the rank at a place of the group is called among all: what messages are addressed to."""
    return place if settings.group is None else dist.get_global_rank(settings.group, place)


def device_of(x: object) -> torch.device:
    """Return where to put what accompanies ``x`` to other ranks; some device if it is no tensor."""
    if isinstance(x, Tensor):
        return x.device
    return torch.device("cuda" if dist.get_backend(group()) == "nccl" else "cpu")


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()
