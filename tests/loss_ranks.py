"""Processes that compute losses together; for tests/criterion/test_ranks.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import rank_troubles
from nearfar.distributed import settings
from nearfar.errors import NearfarError
from ranked_problems import Case, Model, batch, part, solve

Trouble = Callable[[int], Any]


def run(
    cases: list[Case], world_size: int, folder: Path, troubles: dict[str, Trouble] = rank_troubles.TROUBLES
) -> list[dict[str, Any]]:
    """Return what each rank got: for each case, and for each of the ``troubles``."""
    torch.save({"cases": cases, "troubles": troubles}, folder / "work")
    torch.multiprocessing.spawn(_host, (world_size, folder))
    return [torch.load(folder / f"rank{rank}", weights_only=False) for rank in range(world_size)]


def _host(_: int, world_size: int, folder: Path) -> None:
    """Fork before torch has started a thread, so that one import serves all ranks."""
    torch.multiprocessing.start_processes(_work, (world_size, folder), nprocs=world_size, start_method="fork")


def _work(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world_size
    )
    work, found = torch.load(folder / "work", weights_only=False), []
    for case in work["cases"]:
        try:
            found.append(_solved(case, rank))
        except NearfarError as error:
            found.append({"error": str(error)})
        except Exception as error:
            raise RuntimeError(f"rank {rank}: {case}") from error
    troubles = {name: trouble(rank) for name, trouble in work["troubles"].items()}
    torch.save({"cases": found, "troubles": troubles}, folder / f"rank{rank}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _solved(case: Case, rank: int) -> dict[str, Any]:
    for name, value in {"exchange": "auto", "gradients": "mean", **case.settings}.items():
        setattr(settings, name, value)
    model = wrapped(Model(case), case.engine)
    steps = [part(case, batch(case, step), rank) for step in range(case.steps)]
    return solve(model, steps, rank)


def wrapped(model: Model, engine: str) -> nn.Module:
    """The model, network and loss in one, as an engine sees it."""
    return DistributedDataParallel(model) if engine == "ddp" else fully_shard(model)
