"""What tests of the memory share: rows with labels, and a loss with its gradient."""

import torch
from torch import Tensor


def rows(n: int, seed: int, dim: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=dtype), torch.randint(4, (n,), generator=generator)


def gradient(loss: torch.nn.Module, x: Tensor, labels: Tensor, **call) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x, labels, **call)
    (dx,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), dx


def equal(one, other):
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)
