"""Which rank this process is, of how many."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of ranks; 1 where torch.distributed is not running."""
    return dist.get_world_size() if _running() else 1


def rank() -> int:
    """Return this process's place among the ranks; 0 where torch.distributed is not running."""
    return dist.get_rank() if _running() else 0


def device_of(x: object) -> torch.device:
    """Return where to put what accompanies ``x`` to other ranks; some device if it is no tensor."""
    if isinstance(x, Tensor):
        return x.device
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()
