"""Nothing that a step makes outlives it: objects and bytes after many steps are those after few."""

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import nearfar
from nearfar.errors import NearfarError
from nearfar.losses import Loss
from nearfar.losses.parts.registry import has_proxies
from nearfar.similarity.tiled import block as tiled
from problems import BACKENDS

EVERY = nearfar.losses.names()
RULES = nearfar.mining.names()
Told = tuple[str | None, torch.dtype, str | None]
# "sum" compares a batch with itself and with the memory.
PLAIN: list[Told] = [
    (None, torch.float32, "sum"),
    (None, torch.float32, "together"),
    (None, torch.float64, None),
]
# What autograd does alone there: an interval, and candidates by name.
FEW = {"dense": [None, "hard", "top_k"], "reference": [None]}
SETTINGS = {"interval": {"above": -0.5}, "random": {"seed": 0}, "distance_weighted": {"seed": 0}}
# What leaks does so in every round; what is kept once, in one.
WARM, STEPS, ROUNDS = 1, 2, 4


def loss_with(name: str, rule: str | None, backend: str, dtype: torch.dtype) -> Loss:
    classes = {"classes": 6, "dim": 4} if has_proxies(name) else {}
    mining = rule and {"name": rule, **SETTINGS.get(rule, {})}
    return nearfar.losses.create(name, mining=mining, backend=backend, **classes).to(dtype)


def step_of(loss: Loss, dtype: torch.dtype, combine: str | None) -> Callable[[], None]:
    """One step, always of the same batch; with a memory, after it is full."""
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.arange(8) // 2
    memory = None
    if combine is not None:
        memory = nearfar.CrossBatchMemory(8, combine=combine)
        memory.add(x, labels)

    def step() -> None:
        value = loss(x.clone().requires_grad_(), labels, memory=memory)
        if value.requires_grad:
            value.backward()
        loss.zero_grad(set_to_none=False)

    return step


def objects() -> int:
    """How many objects the collector knows of."""
    return len(gc.get_objects())


def bytes_of_tensors() -> int:
    return sum(x.nbytes for x in gc.get_objects() if isinstance(x, Tensor))


def growth(step: Callable[[], None]) -> tuple[int, int]:
    """What a few steps leave behind: what is kept once for all that come, anywhere in a process, is not theirs."""
    for _ in range(WARM):
        step()
    for _ in range(ROUNDS):
        # Not as a tuple, which would be one object more.
        large = bytes_of_tensors()
        many = objects()
        for _ in range(STEPS):
            step()
        more = objects()
        found = more - many, bytes_of_tensors() - large
        if not any(found):
            break
    return found


@pytest.fixture(autouse=True, scope="module")
def no_collector() -> Iterator[None]:
    """What only the collector can free waits for it, at times for long: it is off."""
    gc.collect()
    gc.freeze()  # what there was before is not looked through again and again
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("turn", range(3), ids=BACKENDS)
@pytest.mark.parametrize("place", range(len(EVERY)), ids=EVERY)
def test_steps_leave_nothing_behind(place, turn, monkeypatch):
    """Against a memory, without one and in float64 in turns, and in tiles with some of the rules."""
    plain = PLAIN[(place + turn) % 3]
    rules = [(rule, torch.float32, "sum") for rule in RULES[place % 8 :: 8]]
    check(EVERY[place], [plain, *rules], BACKENDS[turn], monkeypatch)


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", EVERY)
def test_steps_with_every_rule_leave_nothing_behind(name, backend, monkeypatch):
    rules = [(rule, torch.float32, "sum") for rule in RULES]
    assert check(name, [*PLAIN, *rules], backend, monkeypatch) >= 3


def check(name: str, told: list[Told], backend: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Take the steps of a loss with each of the rules that it takes; return how many of them."""
    monkeypatch.setattr(tiled, "TILE", 4)
    left, tried = {}, 0
    for rule, dtype, combine in told:
        if rule not in FEW.get(backend, [rule]):
            continue
        try:
            loss = loss_with(name, rule, backend, dtype)
            step = step_of(loss, dtype, combine)
            step()
        except NearfarError:  # it takes no memory, or no such rule
            if rule is not None:
                continue
            step = step_of(loss, dtype, None)
        tried += 1
        if any(found := growth(step)):
            left[rule, combine, dtype] = found
    assert not left
    return tried


def test_what_every_step_keeps_is_found_and_what_is_kept_once_is_not():
    kept, once = [], {}
    assert growth(lambda: kept.append([torch.zeros(2)])) > (0, 0)
    calls = iter(range(100))
    assert growth(lambda: once.setdefault(next(calls) == 2, [torch.zeros(2)])) == (0, 0)
