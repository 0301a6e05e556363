"""Where a device lacks float64 the CPU computes the loss: the same value, gradients and running numbers."""

import pytest
import torch

import nearfar
from nearfar.criterion import nearby
from problems import PAIR_LOSSES, TRIPLET_LOSSES, TWO_SIDED_LOSSES, WHOLE_BATCH_LOSSES
from proxy_problems import EVERY


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the CPU count as a device without float64; what is computed nearby is noted."""
    called = []
    real = nearby.functional_call
    monkeypatch.setattr(nearby, "LACKING", {"cpu"})
    monkeypatch.setattr(
        nearby, "functional_call", lambda *given: called.append(given[0].loss.name) or real(*given)
    )
    return called


def outcome(name: str) -> list[torch.Tensor]:
    torch.manual_seed(0)
    settings = {"classes": 4, "dim": 8} if name in EVERY else {}
    loss = nearfar.losses.create(name, **settings)
    memory = None if name in EVERY else nearfar.CrossBatchMemory(24)
    found = []
    for _ in range(2):
        x = torch.randn(12, 8, requires_grad=True)
        value = loss(x, torch.arange(12) // 3, memory=memory)
        value.backward()
        found += [value.detach(), x.grad]
    found += [p.grad for p in loss.parameters()] + list(loss.buffers())
    return [*found, *(memory.state_dict().values() if memory is not None else ())]


@pytest.mark.parametrize(
    "name", sorted({*PAIR_LOSSES, *TRIPLET_LOSSES, *TWO_SIDED_LOSSES, *WHOLE_BATCH_LOSSES, *EVERY})
)
def test_the_same_as_where_the_rows_lie(name: str, request: pytest.FixtureRequest) -> None:
    here = outcome(name)
    called = request.getfixturevalue("lacking")
    for got, expected in zip(outcome(name), here, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert called == [name, name]


def test_pairs_given_one_by_one(lacking: list[str]) -> None:
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    loss = nearfar.losses.create("supcon")
    value = loss(x, nearfar.Relevance(pairs=torch.tensor([[0, 1], [2, 3]])))
    assert lacking == ["supcon"]
    nearby.LACKING.clear()
    assert value == loss(x, nearfar.Relevance(pairs=torch.tensor([[0, 1], [2, 3]])))
