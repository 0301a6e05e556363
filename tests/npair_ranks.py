"""The N-pair layer on several ranks: processes that run every problem they are given and write what they got."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing

from nearfar.caffe.layers import NPairMultiClassLoss
from npair_oracle import TOPS, Settings


@dataclass
class Problem:
    """Rows of all ranks, cut at ``counts``."""

    rows: np.ndarray
    labels: np.ndarray
    counts: list[int]
    settings: Settings
    parity: bool
    dtype: str = "float32"
    backend: str = "auto"

    def of(self, rank: int) -> slice:
        """The rows of one rank."""
        start = sum(self.counts[:rank])
        return slice(start, start + self.counts[rank])


def run(problems: list[Problem], world_size: int, folder: Path) -> list[list[dict[str, Any]]]:
    """Return what each rank got for each problem: tops, grad, selected."""
    torch.save(problems, folder / "problems")
    torch.multiprocessing.spawn(_host, (world_size, folder))
    return [torch.load(folder / f"rank{rank}", weights_only=False) for rank in range(world_size)]


def _host(_: int, world_size: int, folder: Path) -> None:
    """Fork before torch has started a thread, so that one import serves all ranks."""
    torch.multiprocessing.start_processes(_work, (world_size, folder), nprocs=world_size, start_method="fork")


def _work(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    problems = torch.load(folder / "problems", weights_only=False)
    torch.save(list(_solved(problems, rank)), folder / f"rank{rank}")
    torch.distributed.destroy_process_group()


def _solved(problems: list[Problem], rank: int) -> Iterator[dict[str, Any]]:
    for problem in problems:
        own = problem.of(rank)
        x = torch.tensor(problem.rows[own], dtype=getattr(torch, problem.dtype)).requires_grad_()
        labels = torch.tensor(problem.labels[own])
        npair = NPairMultiClassLoss(
            **asdict(problem.settings), parity=problem.parity, backend=problem.backend
        )
        tops = npair(x, labels)
        (gradient,) = torch.autograd.grad(tops["loss"], x)
        yield {
            "tops": [tops[name].item() for name in TOPS],
            "grad": gradient.numpy(),
            "selected": npair.selected(x, labels).numpy(),
        }
