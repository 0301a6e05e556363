"""The same call gives the same bits every time, on any fixed number of threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import nearfar
from nearfar.errors import NearfarError
from nearfar.losses import Loss
from nearfar.losses.parts.registry import has_proxies
from nearfar.similarity.tiled import block as tiled
from turns import in_turns

EVERY = nearfar.losses.names()
RULES = [None, *nearfar.mining.names()]
SETTINGS = {"interval": {"above": -0.5}, "random": {"seed": 0}, "distance_weighted": {"seed": 0}}


def losses(name: str, backend: str, rules: list[str | None]) -> Iterator[tuple[str | None, Loss]]:
    """The loss with each of the rules; one with proxies takes none."""
    torch.manual_seed(0)
    classes = {"classes": 4, "dim": 8} if has_proxies(name) else {}
    for rule in [None] if classes else rules:
        mining = rule and {"name": rule, **SETTINGS.get(rule, {})}
        yield rule, nearfar.losses.create(name, mining=mining, backend=backend, **classes)


def value_and_gradients(loss: Loss, x: Tensor, labels: Tensor) -> list[Tensor]:
    ours = x.clone().requires_grad_()
    value = loss(ours, labels)
    learned = list(loss.parameters())
    found = torch.autograd.grad(value, [ours, *learned], allow_unused=True) if value.requires_grad else ()
    return [value.detach(), *(x for x in found if x is not None)]


class NoRaces(TorchDispatchMode):
    """Refuses the sums that threads add to in whatever order they come."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "index_put" in str(func) and (args[3] if len(args) > 3 else (kwargs or {}).get("accumulate")):
            places = torch.broadcast_tensors(*(x for x in args[1] if x is not None))
            if places[0].dtype != torch.bool:
                places = torch.stack([x.flatten() for x in places], 1)
                assert len(places.unique(dim=0)) == len(places), f"{func} adds to one place more than once"
        return func(*args, **(kwargs or {}))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("place", range(len(EVERY)), ids=EVERY)
def test_no_sum_is_left_to_chance(place, backend, monkeypatch):
    """With a sixth of the rules, other ones than the loss before, and with a memory."""
    no_thread_decides_an_order(EVERY[place], backend, [None, *RULES[1 + place % 6 :: 6]], monkeypatch)


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("name", EVERY)
def test_no_sum_is_left_to_chance_with_any_rule(name, backend, monkeypatch):
    no_thread_decides_an_order(name, backend, RULES, monkeypatch)


def no_thread_decides_an_order(
    name: str, backend: str, rules: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled, "TILE", 8)
    x, labels = torch.randn(12, 8, generator=torch.Generator().manual_seed(1)), torch.arange(12) // 3
    for rule, loss in losses(name, backend, rules):
        memory = nearfar.CrossBatchMemory(12)
        memory.add(x.flip(0), labels)
        for given in (None, memory) if rule in (None, "hard", "random") else (None,):
            ours = x.clone().requires_grad_()
            try:
                with NoRaces():
                    value = loss(ours, labels, memory=given)
                    if value.requires_grad:
                        value.backward()
            except NearfarError:  # it takes no such rule, or no memory
                continue


LARGE = [
    ("triplet", "semi_hard"),
    ("margin", "distance_weighted"),
    ("angular", None),
    ("quadruplet", "hard"),
    ("rank_hard", "random"),
    ("roadmap", None),
    ("supcon", None),
    ("tuplet_margin", "top_k"),
    ("arcface", None),
    ("soft_triple", None),
]


@in_turns(2, told=LARGE, backend=["dense", "tiled"])
def test_two_threads_repeat_themselves(told, backend):
    """1,200 pairs of 16 numbers: enough for torch to share out the sums over them among the threads."""
    name, rule = told
    labels = torch.arange(240) // 5 % 24
    x = torch.randn(240, 16, generator=torch.Generator().manual_seed(1))
    classes = {"classes": 24, "dim": 16} if has_proxies(name) else {}
    mining = rule and {"name": rule, **SETTINGS.get(rule, {})}
    torch.manual_seed(0)
    loss = nearfar.losses.create(name, mining=mining, backend=backend, **classes)
    with threads(2):
        first, *others = [value_and_gradients(loss, x, labels) for _ in range(4)]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
