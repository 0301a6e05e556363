"""Processes that compute losses together; for tests/criterion/test_ranks.py."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import rank_processes
import rank_troubles
from nearfar.distributed import settings
from nearfar.errors import NearfarError
from ranked_problems import Case, Model, batch, part, solve

Trouble = Callable[[int], Any]


def run(
    cases: list[Case], world_size: int, troubles: dict[str, Trouble] = rank_troubles.TROUBLES
) -> list[dict[str, Any]]:
    """Return what each rank got: for each case, and for each of the ``troubles``."""
    return rank_processes.run(_work, world_size, cases, troubles)


def _work(rank: int, cases: list[Case], troubles: dict[str, Trouble]) -> dict[str, Any]:
    found = []
    for case in cases:
        try:
            found.append(_solved(case, rank))
        except NearfarError as error:
            found.append({"error": str(error)})
        except Exception as error:
            raise RuntimeError(f"rank {rank}: {case}") from error
    return {"cases": found, "troubles": {name: trouble(rank) for name, trouble in troubles.items()}}


def _solved(case: Case, rank: int) -> dict[str, Any]:
    for name, value in {"exchange": "auto", "gradients": "mean", **case.settings}.items():
        setattr(settings, name, value)
    model = wrapped(Model(case), case.engine)
    steps = [part(case, batch(case, step), rank) for step in range(case.steps)]
    return solve(model, steps, rank)


def wrapped(model: Model, engine: str) -> nn.Module:
    """The model, network and loss in one, as an engine sees it."""
    return DistributedDataParallel(model) if engine == "ddp" else fully_shard(model)
