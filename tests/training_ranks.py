"""Processes that train together; for tests/train/test_ranks.py.

All cases of a test module run in one pair of processes: starting them takes longer than training.
"""

import os
import signal
import socket
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

import rank_processes
from nearfar.config import Config
from nearfar.data import Share, create_sampler
from nearfar.distributed import joined, of_rank_0, rank, wait_for_all
from nearfar.models import Embedder
from nearfar.models.small import Small
from nearfar.train import loop, ranks, setup, train, validate
from stopped_runs import At, interrupt

Case = tuple[str, dict[str, Any]]


class Spoiled(nn.Module):
    """A network that gives NaN, stands still or fails on one rank at one step."""

    def __init__(self, how: str, at: int, on: int) -> None:
        super().__init__()
        self.body, self.how, self.at, self.on, self.step = Small((8, 16), norm="group"), how, at, on, 0

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        if self.training:
            self.step += 1
        if self.training and self.step == self.at and rank() == self.on:
            if self.how == "nan":
                return found * torch.nan
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "sleep":
                time.sleep(6)
            if self.how == "fail":
                raise MemoryError("there is no memory left for this test.")
        return found


def run(size: int, cases: list[Case]) -> list[list[Any]]:
    """Return what each case came to on each rank; an exception is what it is called and says."""
    return rank_processes.run(_work, size, size, cases)


def _work(own: int, size: int, cases: list[Case]) -> list[Any]:
    found = []
    environment = {"RANK": own, "WORLD_SIZE": size, "MASTER_ADDR": "localhost", "LOCAL_WORLD_SIZE": size}
    os.environ |= {key: str(value) for key, value in environment.items()}
    together = [case for case in cases if "timeout" not in case[1]]
    apart = [case for case in cases if "timeout" in case[1]]
    for name, arguments in together:
        found.append(_tried(name, arguments))
        wait_for_all()
    ports = of_rank_0([_free_port() for _ in apart])
    wait_for_all()
    torch.distributed.destroy_process_group()
    for port, (name, arguments) in zip(ports, apart, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        found.append(_tried(name, arguments))
    return found


def _tried(name: str, arguments: dict[str, Any]) -> Any:
    told: list[str] = []
    began = time.monotonic()
    timeout = arguments.pop("timeout", None)
    context = (
        nullcontext()
        if timeout is None
        else joined(timedelta(seconds=timeout), lambda e: told.append(str(e)))
    )
    try:
        with warnings.catch_warnings(), context:
            warnings.simplefilter("error")
            return CASES[name](**arguments)
    except Exception as error:
        return {
            "error": type(error).__name__,
            "says": str(error),
            "told": told,
            "seconds": time.monotonic() - began,
        }


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("localhost", 0))
        return asked.getsockname()[1]


def _train(
    config: Config, folder: Path, resume: bool = False, stop_at: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Train; with ``stop_at`` = (rank, step) that rank alone is interrupted after that step."""
    trackers = []
    if stop_at is not None and rank() == stop_at[0]:
        if rank() == 0:
            trackers = [At(interrupt, kind="step", step=stop_at[1])]
        else:  # a rank that tells nobody anything
            _after_step(stop_at[1], interrupt)
    done = train(config, folder, resume=resume, progress=False, trackers=trackers)
    return {"best_epoch": done.best_epoch, "validation": done.validation}


def _after_step(step: int, do: Callable[[], None]) -> None:
    real, seen = loop.any_rank, 0

    def any_rank(*flags: bool) -> tuple[bool, ...]:
        nonlocal seen
        seen += 1
        if seen == step:
            do()
            loop.any_rank = real
        return real(*flags)

    loop.any_rank = any_rank  # type: ignore[assignment]


def _spoil(config: Config, folder: Path, how: str, at: int, on: int = 1) -> dict[str, Any]:
    embedder = Embedder(Spoiled(how, at, on), dim=16, size=32)
    return {"best": train(config, folder, progress=False, embedder=embedder).best_epoch}


def _dry_run(config: Config, folder: Path) -> Any:
    return train(config, folder, dry_run=True, progress=False)


def _validate(config: Config, batch: int) -> dict[str, Any]:
    parts = setup.assemble(config, setup.tables_of(config), torch.device("cpu"))
    assert parts.validation_images is not None
    validate.BATCH = batch
    given = (parts.embedder, parts.validation_images)
    cpu = (torch.device("cpu"), torch.contiguous_format)
    embeddings, labels = validate.embed(*given[:1], given[1], range(len(given[1])), *cpu)
    return {"embeddings": embeddings, "labels": labels, "found": validate.validate(*given, *cpu)}


def _share(twice: bool) -> list[list[int]]:
    """Take the batches of a sampler as a loop would, or as one whose engine has shared them out again."""
    share = Share(create_sampler("pk", [k // 4 for k in range(40)], 3, 3))
    taken = []
    for number, rows in enumerate(share):
        if twice and number % 2 != rank():
            continue
        share.check(rows)
        taken.append(list(rows))
    return taken


def _statistics() -> list[Tensor]:
    """What several ranks keep of batch norm, and gradients that not every rank has."""
    layer = nn.BatchNorm1d(2)
    layer.running_mean.fill_(float(rank()))  # type: ignore[union-attr]
    ranks.same_buffers(layer)
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    weights[0].grad = torch.full((2,), 1.0 + rank())
    weights[1].grad = torch.ones(2) if rank() == 1 else None
    ranks.average(weights)
    return [layer.running_mean, *(w.grad for w in weights)]  # type: ignore[list-item]


CASES: dict[str, Callable[..., Any]] = {
    "train": _train,
    "dry_run": _dry_run,
    "spoil": _spoil,
    "validate": _validate,
    "share": _share,
    "statistics": _statistics,
}
