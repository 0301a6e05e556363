"""torch.compile takes a small batch whole, once for all values, and leaves whole what it cannot take."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounter

import nearfar
from nearfar.losses.parts.registry import has_proxies, registry

N, DIM, CLASSES = 24, 8, 6
X = torch.randn(N, DIM, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) // 4
OF_ITSELF = {"interval": {"name": "interval", "above": -0.5}, "random": {"name": "random", "seed": 0}}
OF_ITSELF |= {"distance_weighted": {"name": "distance_weighted", "seed": 0}}
WHOLE = [name for name in nearfar.losses.names() if registry[name].compiles]
MAIN = [("multi_similarity", "multi_similarity"), ("triplet", None), ("proxy_anchor", None)]
REST = [(name, None) for name in WHOLE] + [("supcon", rule) for rule in nearfar.mining.names()]

# Dynamo looks at .grad of tensors that are no leaves, and tells of what it leaves to Python.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def create(name: str, rule: str | None = None, **settings: Any) -> nearfar.losses.Loss:
    torch.manual_seed(0)
    torch.compiler.reset()
    if has_proxies(name):
        settings |= {"classes": CLASSES, "dim": DIM}
    return nearfar.losses.create(name, mining=rule and OF_ITSELF.get(rule, rule), **settings)


def step(call: Any, x: Tensor, **more: Any) -> tuple[Tensor, Tensor | None]:
    x = x.clone().requires_grad_()
    value = call(x, Y, **more)
    if value.requires_grad:
        value.backward()
    return value.detach(), x.grad


def compiles_whole(name: str, rule: str | None) -> None:
    """The same loss and gradient, in one piece, and not again for other embeddings."""
    seen = CompileCounter()
    loss, again = create(name, rule), create(name, rule)  # numbers that run over batches are each one's own
    compiled = torch.compile(again, backend=seen, fullgraph=True)
    for x in (X, X.roll(1, 1) + 1):
        torch.testing.assert_close(step(compiled, x), step(loss, x), rtol=2e-5, atol=2e-6)
    assert seen.frame_count == 1


@pytest.mark.parametrize(("name", "rule"), MAIN)
def test_the_usual_ones_compile_whole(name, rule):
    compiles_whole(name, rule)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "rule"), REST)
def test_every_loss_and_every_rule_compiles_whole(name, rule):
    compiles_whole(name, rule)


def test_what_stays_as_it_is():
    assert set(nearfar.losses.names()) - set(WHOLE) == {"angular", "quadruplet"}


@pytest.mark.parametrize("name", ["angular", "memory", "tiled", "tags"])
def test_the_rest_runs_whole_as_it_is(name):
    """Nothing of the loss is compiled, and nothing is lost."""
    loss = create(name if name == "angular" else "supcon", backend="tiled" if name == "tiled" else "auto")
    more = {}
    if name == "memory":
        more["memory"] = nearfar.CrossBatchMemory(64)
        more["memory"].add(X, Y)
        loss.eval()  # it takes in no batch
    labels = torch.eye(CLASSES)[Y].bool() if name == "tags" else Y
    seen = CompileCounter()
    compiled = torch.compile(loss, backend=seen)
    assert torch.equal(compiled(X, labels, **more), loss(X, labels, **more))
    assert seen.op_count == 0
    torch.compiler.reset()
    with pytest.raises(Unsupported, match="run as they are"):
        torch.compile(loss, backend="eager", fullgraph=True)(X, labels, **more)
