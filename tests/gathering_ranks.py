"""Two processes that gather rows of different number, and the gradient of them; for tests/test_distributed.py."""

from pathlib import Path

import torch
import torch.multiprocessing
from torch import Tensor

from nearfar.distributed import gather_rows, rank, row_counts, world_size
from nearfar.errors import NearfarError


def run(rows: list[Tensor], weights: list[Tensor], folder: Path) -> list[dict]:
    """Return what each rank gets."""
    torch.multiprocessing.spawn(_work, (rows, weights, folder), nprocs=len(rows))
    return [torch.load(folder / f"rank{k}") for k in range(len(rows))]


def _work(own: int, rows: list[Tensor], weights: list[Tensor], folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=own, world_size=len(rows)
    )
    x = rows[own].clone().requires_grad_()
    every = gather_rows(x)
    (weights[own] * every).sum().backward()
    try:
        gather_rows(torch.ones(2, 3 + own))
        sentence = ""
    except NearfarError as error:
        sentence = str(error)
    found = {"rank": rank(), "world_size": world_size(), "counts": row_counts(x), "grad": x.grad}
    torch.save({**found, "every": every.detach(), "sentence": sentence}, folder / f"rank{own}")
    torch.distributed.destroy_process_group()
