"""Which rank this process is, and what ranks tell each other. The only user of torch.distributed.

Plain collectives, and nothing differentiable but ``gather_rows``: losses compute their gradient, what other
ranks contribute included, in the forward pass.
"""

from nearfar.distributed.agree import any_rank, by_rank_0, of_rank_0, wait_for_all
from nearfar.distributed.launch import (
    RankLost,
    joined,
    launch_id,
    local_rank,
    local_world_size,
    restarted,
    started_by_torchrun,
)
from nearfar.distributed.rows import around_the_ring, gather_rows, highest, row_counts, together, total
from nearfar.distributed.settings import settings
from nearfar.distributed.world import rank, world_size

__all__ = [
    "RankLost",
    "any_rank",
    "around_the_ring",
    "by_rank_0",
    "gather_rows",
    "highest",
    "joined",
    "launch_id",
    "local_rank",
    "local_world_size",
    "of_rank_0",
    "rank",
    "restarted",
    "row_counts",
    "settings",
    "started_by_torchrun",
    "together",
    "total",
    "wait_for_all",
    "world_size",
]
