"""Batches and losses for the tests of losses with proxies."""

import torch
from torch import Tensor

import nearfar
from nearfar.losses import Loss
from proxy_oracle import definitions

EVERY = sorted(definitions)


def problem(n: int = 9, dim: int = 6, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings of several lengths; class 0 has none, class 1 many."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    return x, torch.randint(1, classes, (n,), generator=generator)


def create(name: str, classes: int = 5, dim: int = 6, seed: int = 1, **settings) -> Loss:
    torch.manual_seed(seed)
    loss = nearfar.losses.create(name, classes=classes, dim=dim, **settings).double()
    with torch.no_grad():  # of several lengths, whatever the start
        loss.proxies.normal_()
    return loss


def gradients(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs)
