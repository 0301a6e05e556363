"""Two processes that gather rows of different number, and the gradient of them; for tests/test_distributed.py."""

import torch
from torch import Tensor

import rank_processes
from nearfar.distributed import gather_rows, rank, row_counts, world_size
from nearfar.errors import NearfarError


def run(rows: list[Tensor], weights: list[Tensor]) -> list[dict]:
    """Return what each rank gets."""
    return rank_processes.run(_work, len(rows), rows, weights)


def _work(own: int, rows: list[Tensor], weights: list[Tensor]) -> dict:
    x = rows[own].clone().requires_grad_()
    every = gather_rows(x)
    (weights[own] * every).sum().backward()
    try:
        gather_rows(torch.ones(2, 3 + own))
        sentence = ""
    except NearfarError as error:
        sentence = str(error)
    found = {"rank": rank(), "world_size": world_size(), "counts": row_counts(x), "grad": x.grad}
    return {**found, "every": every.detach(), "sentence": sentence}
