"""Losses with classes on embeddings of any length, anywhere: digits as plain float32 differences have them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

import nearfar
from turns import in_turns

N, CLASSES, DIM = 24, 6, 64
LABELS = torch.arange(N) // 4


def nca(s: Tensor, labels: Tensor) -> Tensor:
    own = torch.nn.functional.one_hot(labels, CLASSES).bool()
    return (s.masked_fill(own, -torch.inf).logsumexp(1) - s[own]).mean()


def anchor(s: Tensor, labels: Tensor) -> Tensor:
    own = torch.nn.functional.one_hot(labels, CLASSES).bool()
    pull = (-32 * (s - 0.1)).masked_fill(~own, -torch.inf).logsumexp(0)
    push = (32 * (s + 0.1)).masked_fill(own, -torch.inf).logsumexp(0)
    return softplus(pull).mean() + softplus(push).mean()


# Of s = -D or -D² [anchor, class], in plain torch.
PLAIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "normalized_softmax": lambda s, labels: cross_entropy(s / 0.05, labels),
    "proxy_nca": nca,
    "proxy_nca_pp": lambda s, labels: cross_entropy(9 * s, labels),
    "proxy_anchor": anchor,
    "center": lambda s, labels: -s[torch.arange(N), labels].mean() / 2,
}
CASES = [
    (name, measure)
    for name in PLAIN
    for measure in ("euclidean", "squared_euclidean")
    if measure == "squared_euclidean" or name in ("normalized_softmax", "proxy_anchor")
]


def plainly(name: str, measure: str, x: Tensor, w: Tensor) -> list[Tensor]:
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    square = (x[:, None] - w).square().sum(2)
    s = -square if measure == "squared_euclidean" else -square.sqrt()
    value = PLAIN[name](s, LABELS)
    return [value.detach(), *torch.autograd.grad(value, [x, w])]


def ours(name: str, measure: str, x: Tensor, w: Tensor, backend: str) -> list[Tensor]:
    loss = nearfar.losses.create(name, classes=CLASSES, dim=DIM, similarity=measure, backend=backend)
    with torch.no_grad():
        loss.proxies.copy_(w)
    x = x.clone().requires_grad_()
    value = loss.to(x.dtype)(x, LABELS)
    return [value.detach(), *torch.autograd.grad(value, [x, loss.proxies])]


def errors(found: list[Tensor], exact: list[Tensor]) -> Tensor:
    pairs = zip(found, exact, strict=True)
    return torch.stack([(a.double() - b).norm() / b.norm().clamp_min(1e-300) for a, b in pairs])


# Lengths of the rows, and how far all of them lie from the origin.
FAR = [(8, 0), (80, 0), (800, 0), (8, 100), (8, 1000), (1, 1000)]


@in_turns(2, told=CASES, far=FAR, backend=["dense", "tiled"])
def test_digits_of_distances_to_classes(told, far, backend):
    """Plain float32's own error over several batches, and no more than five times that."""
    (name, measure), (length, offset) = told, far
    worst, plain = torch.zeros(3), torch.zeros(3)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x = length / 8 * torch.randn(N, DIM, generator=generator) + offset
        w = torch.randn(CLASSES, DIM, generator=generator) / 8 + offset
        exact = plainly(name, measure, x.double(), w.double())
        worst = torch.maximum(worst, errors(ours(name, measure, x, w, backend), exact))
        plain = torch.maximum(plain, errors(plainly(name, measure, x, w), exact))
    assert torch.all(worst <= 5 * plain + 1e-6), (worst, plain)


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("offset", [0.0, 3.0, 10.0])
def test_pull_and_push_of_products_cancel(offset, backend):
    """All classes lie in one direction: where an embedding is pulled and where it is pushed nearly cancel."""
    worst, plain = torch.zeros(2), torch.zeros(2)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(N, DIM, generator=generator) + offset
        w = torch.randn(CLASSES, DIM, generator=generator) / 100 + offset
        exact = [y.double() for y in product(x.double(), w.double())]
        worst = torch.maximum(worst, errors(ours("normalized_softmax", "dot", x, w, backend)[1:], exact))
        plain = torch.maximum(plain, errors(product(x, w), exact))
    assert torch.all(worst <= 5 * plain + 1e-6), (worst, plain)


def product(x: Tensor, w: Tensor) -> list[Tensor]:
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    return list(torch.autograd.grad(cross_entropy(x @ w.mT / 0.05, LABELS), [x, w]))
