"""How losses work across ranks: set once, alike on all ranks, before training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Exchange = Literal["auto", "gather", "ring"]


@dataclass
class Settings:
    """What ``nearfar.distributed.settings`` holds.

    Attributes:
        exchange: how a rank gets to see the rows of others. "gather" holds all of them for a moment, "ring"
            those of one other rank at a time. "auto" gathers unless that takes more than ``budget``.
        budget: bytes that the gathered rows and their gradient may take on each rank.
        gradients: what becomes of the ranks' gradients of a parameter. "mean" is DistributedDataParallel,
            FSDP2 and what is built on them; "sum" is for an engine that adds them up.
        group: the ranks that share a batch, this one among them; None for all. With groups of G ranks a step
            has the gradient of the mean of their losses, averaged over all ranks.
    """

    exchange: Exchange = "auto"
    budget: int = 2 * 2**30
    gradients: Literal["mean", "sum"] = "mean"
    group: "ProcessGroup | None" = None


settings = Settings()
