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

EVERY = nearfar.losses.names()
RULES = [None, *nearfar.mining.names()]
# What autograd does alone: an interval, and candidates by name.
FEW = {"dense": [None, "hard", "top_k"], "reference": [None]}
SETTINGS = {"interval": {"above": -0.5}, "random": {"seed": 0}, "distance_weighted": {"seed": 0}}
WARM, STEPS = 1, 2


def losses(
    name: str, rules: list[str | None], backend: str, dtype: torch.dtype
) -> Iterator[tuple[str | None, Loss]]:
    """The loss with each rule; one with proxies takes none."""
    classes = {"classes": 6, "dim": 4} if has_proxies(name) else {}
    for rule in rules[:1] if classes else rules:
        mining = rule and {"name": rule, **SETTINGS.get(rule, {})}
        yield rule, nearfar.losses.create(name, mining=mining, backend=backend, **classes).to(dtype)


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
    """What a few steps leave behind, beside what the first ones have left for all that come."""
    for _ in range(WARM):
        step()
    # Not as a tuple, which would be one object more.
    large = bytes_of_tensors()
    many = objects()
    for _ in range(STEPS):
        step()
    more = objects()
    return more - many, bytes_of_tensors() - large


@pytest.fixture(autouse=True, scope="module")
def no_collector() -> Iterator[None]:
    """What only the collector can free waits for it, at times for long: it is off."""
    gc.collect()
    gc.freeze()  # what there was before is not looked through again and again
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.parametrize("backend", ["dense", "tiled", "reference"])
@pytest.mark.parametrize("name", EVERY)
def test_steps_leave_nothing_behind(name, backend, monkeypatch):
    """With every rule; "sum" compares a batch with itself and with the memory."""
    monkeypatch.setattr(tiled, "TILE", 4)
    left, tried = {}, 0
    for dtype, combine, rules in [
        (torch.float32, "sum", RULES if backend == "tiled" else FEW[backend]),
        (torch.float32, "together", RULES[:1]),
        *([(torch.float64, None, RULES[:1])] if backend == "tiled" else []),
    ]:
        for rule, loss in losses(name, rules, backend, dtype):
            try:
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
    assert tried >= 2
