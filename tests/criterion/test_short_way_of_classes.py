"""A small batch against classes goes a short way: few operations, nothing to wait for, the same value."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import nearfar
from counting import counted
from nearfar.criterion import classes
from nearfar.errors import NearfarError
from proxy_problems import EVERY

COUNTED = ["arcface", "cosface", "normalized_softmax", "proxy_anchor"]


def batch(n: int = 128, dim: int = 128) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, dim, generator=torch.Generator().manual_seed(0))
    return x.requires_grad_(), torch.arange(n) // 4


@pytest.mark.parametrize("name", COUNTED)
def test_few_operations_and_no_wait(name: str) -> None:
    loss, (x, labels) = nearfar.losses.create(name, classes=32, dim=128), batch()
    loss(x, labels).backward()
    with counted() as watch:
        loss(x, labels).backward()
    assert not watch.waits
    assert watch.operations <= 130


@contextmanager
def the_general_way(loss: nearfar.losses.Loss) -> Iterator[None]:
    loss._plain = False
    yield
    loss._plain = True


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("named", ["counted", "by name"])
def test_is_the_general_way(name: str, named: str) -> None:
    """Value, gradients, and the numbers that run over batches."""
    x, labels = batch(12, 8)
    known = torch.arange(3) if named == "counted" else torch.tensor([-7, 4, 90])
    found = []
    for way in ("short", "general"):
        torch.manual_seed(0)
        loss = nearfar.losses.create(name, classes=known, dim=8)
        if way == "short":
            value = loss(x, known[labels])
        else:
            with the_general_way(loss):
                value = loss(x, known[labels])
        found.append([value, *torch.autograd.grad(value, [x, loss.proxies]), *loss.buffers()])
        found[-1] += [loss.last.positive_similarity, loss.last.negative_similarity, loss.last.active]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("known", [[0, 1, 2], [1, 5, 9]])
@pytest.mark.parametrize("wrong", [-2, 3, 100])
def test_a_label_of_no_class(known: list[int], wrong: int) -> None:
    """It is refused at once, and at the next batch where a device would have to be waited for."""
    loss = nearfar.losses.create("arcface", classes=known, dim=8)
    x, labels = torch.randn(4, 8), torch.tensor([known[0], wrong, known[1], known[2]])
    with pytest.raises(NearfarError, match=f"label {wrong} is not among the 3 classes that arcface"):
        loss(x, labels)


def test_a_label_of_no_class_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "at_once", lambda _: False)
    loss = nearfar.losses.create("arcface", classes=3, dim=8)
    x = torch.randn(4, 8, requires_grad=True)
    good = torch.tensor([0, 1, 2, 0])
    assert loss(x, good).isfinite()
    value = loss(x, torch.tensor([0, 1, 7, 0]))
    assert value.isnan()
    for gradient in torch.autograd.grad(value, [x, loss.proxies]):
        assert gradient.isnan().all()
    with pytest.raises(NearfarError, match="label 7 of the last batch is not among the 3 classes"):
        loss(x, good)
    assert loss(x, good).isfinite()
