"""Ranks: processes that do a piece of work together, forked from one that has imported what such work needs."""

import contextlib
import io
import multiprocessing
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing

# It is started once for all tests of a process, and torch has started no thread in it.
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(
    [
        "pytest",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "nearfar.evaluate",
        "nearfar.train",
        "nearfar.cli.app",
    ]
)


def run(work: Callable[..., Any], size: int, *given: Any, grouped: bool = True) -> list[Any]:
    """Return what ``work(rank, *given)`` comes to on each of ``size`` ranks.

    Args:
        grouped: whether they form a group of gloo.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        torch.save((work, given), folder / "work")
        torch.multiprocessing.start_processes(
            _work, (folder, size, grouped), nprocs=size, start_method="forkserver"
        )
        return [torch.load(folder / f"rank{rank}", weights_only=False) for rank in range(size)]


def printed(code: str, folder: Path) -> list[str]:
    """Return the lines that a program prints in a process of its own, which has been in that folder."""
    return run(_printed, 1, code, folder, grouped=False)[0]


def _printed(_: int, code: str, folder: Path) -> list[str]:
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(code, {"__name__": "__main__"})
    return shown.getvalue().splitlines()


def _work(rank: int, folder: Path, size: int, grouped: bool) -> None:
    torch.set_num_threads(1)
    if grouped:
        store, wait = torch.distributed.FileStore(str(folder / "store"), size), timedelta(minutes=2)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=wait)
    work, given = torch.load(folder / "work", weights_only=False)
    torch.save(work(rank, *given), folder / f"rank{rank}")
    if torch.distributed.is_initialized():  # some leave the group by themselves
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
