"""The N-pair layer on several ranks: processes that run every problem they are given and write what they got."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

import rank_processes
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


def run(problems: list[Problem], world_size: int) -> list[list[dict[str, Any]]]:
    """Return what each rank got for each problem: tops, grad, selected."""
    return rank_processes.run(_work, world_size, problems)


def _work(rank: int, problems: list[Problem]) -> list[dict[str, Any]]:
    return list(_solved(problems, rank))


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
