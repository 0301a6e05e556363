"""Two processes under DistributedDataParallel, each with its part of a batch in chunks; for tests/train/test_large_batch_ranks.py."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

import nearfar
import rank_processes
from nearfar.distributed import gather_rows, row_counts
from nearfar.train import two_pass

DIM = 6


def network() -> nn.Sequential:
    """It has buffers, which DistributedDataParallel sends around, and which nothing changes."""
    torch.manual_seed(0)
    layers = (nn.Linear(12, 16), nn.BatchNorm1d(16).eval(), nn.ReLU(), nn.Linear(16, DIM))
    return nn.Sequential(*layers).double()


def run(images: Tensor, labels: Tensor, cases: list[tuple[int, int]]) -> list[list[dict[str, Any]]]:
    """For each rank and case (rows of rank 0, chunk): value, gradients, and how often they were exchanged."""
    return rank_processes.run(_work, 2, images, labels, cases)


def _work(rank: int, images: Tensor, labels: Tensor, cases: list[tuple[int, int]]) -> list[dict[str, Any]]:
    loss = nearfar.losses.create("supcon", across_ranks=False)

    def of_all(embeddings: Tensor, labels: Tensor) -> Tensor:
        counts = row_counts(embeddings)
        return loss(gather_rows(embeddings, counts), gather_rows(labels, counts))

    found = []
    for first, chunk in cases:
        rows = slice(0, first) if rank == 0 else slice(first, len(images))
        model, exchanged = DistributedDataParallel(network()), []

        def reduce(state: object, bucket: GradBucket, exchanged: list[int] = exchanged) -> Future[Tensor]:
            exchanged.append(bucket.index())
            sent = torch.distributed.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
            return sent.then(lambda future: future.value()[0])

        model.register_comm_hook(None, reduce)
        value = two_pass(model, of_all, images[rows], labels[rows], chunk)
        gradients = {name: p.grad.clone() for name, p in model.module.named_parameters()}
        found.append({"value": value, "gradients": gradients, "exchanged": exchanged})
    return found
