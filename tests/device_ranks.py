"""Processes that compute losses together, each on a device that is not the CPU; for tests/criterion/test_on_a_device.py."""

from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist

import rank_processes
from nearfar.distributed import settings
from nearfar.errors import NearfarError
from nearfar.similarity import Relevance
from ranked_problems import Case, Model, batch, part, solve


def run(cases: list[Case], world_size: int) -> list[dict[str, Any]]:
    """Return what each rank got for each case, as tests/loss_ranks.py does."""
    with TemporaryDirectory() as folder:
        return rank_processes.run(_work, world_size, cases, folder, world_size, grouped=False)


def _work(rank: int, cases: list[Case], folder: str, world_size: int) -> dict[str, Any]:
    import pretend_device

    device = pretend_device.NAME
    store = dist.FileStore(f"{folder}/store", world_size)
    # Operations of torch.distributed are operations: the CPU behind the device does them.
    dist.init_process_group(f"cpu:gloo,{device}:gloo", store=store, rank=rank, world_size=world_size)
    found = []
    for case in cases:
        try:
            found.append(_solved(case, rank, device))
        except NearfarError as error:
            found.append({"error": str(error)})
        except Exception as error:
            raise RuntimeError(f"rank {rank}: {case}") from error
    return {"cases": found}


def _solved(case: Case, rank: int, device: str) -> dict[str, Any]:
    for name, value in {"exchange": "auto", "gradients": "mean", **case.settings}.items():
        setattr(settings, name, value)
    steps = [moved(part(case, batch(case, step), rank), device) for step in range(case.steps)]
    found = solve(Model(case).to(device), steps, rank)
    assert {x.device.type for x in found.values()} == {device}
    for name in sorted(found.keys() - {"value"}):  # the mean of all ranks, as an engine takes it
        dist.all_reduce(found[name])
        found[name] /= dist.get_world_size()
    return {name: x.cpu() for name, x in found.items()}


def moved(given: dict[str, Any], device: str) -> dict[str, Any]:
    """A batch on a device."""
    return {
        name: Relevance(x.pairs.to(device)) if isinstance(x, Relevance) else x.to(device)
        for name, x in given.items()
    }
