"""A small batch by itself goes a short way: few operations, and the same numbers."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nearfar
from counting import counted
from nearfar.losses.parts.registry import has_proxies

N, DIM = 128, 32
X = torch.randn(N, DIM, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) // 4


def operations(loss: torch.nn.Module) -> int:
    loss(X.clone().requires_grad_(), Y).backward()
    with counted() as found:
        loss(X.clone().requires_grad_(), Y).backward()
    return found.operations


@pytest.mark.parametrize(
    ("name", "rule", "most"),
    [
        ("supcon", None, 90),
        ("contrastive", None, 90),
        ("circle", None, 90),
        ("multi_similarity", None, 90),
        ("multi_similarity", "multi_similarity", 130),
        ("contrastive", "hard", 130),
        ("triplet", "hard", 130),
        ("supcon", "hard", 130),
    ],
)
def test_operations_are_few(name, rule, most):
    assert operations(nearfar.losses.create(name, mining=rule)) <= most


def test_the_short_way_and_the_general_one_give_the_same_bits():
    for name in nearfar.losses.names():
        if has_proxies(name):
            continue
        loss, x, z = nearfar.losses.create(name), X.clone().requires_grad_(), X.clone().requires_grad_()
        straight, general = loss(x, Y), loss(z, Y, weights=torch.ones(N))
        torch.testing.assert_close(straight, general, rtol=1e-6, atol=1e-7)
        straight.backward()
        general.backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad, z.grad, rtol=1e-5, atol=1e-7)


def by_hand() -> dict[str, tuple[Callable[..., Tensor], dict[str, Any]]]:
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import by_hand as hand
    finally:
        sys.path.remove(folder)
    return {
        "supcon": (hand.supcon, {}),
        "ntxent": (hand.ntxent, {}),
        "contrastive": (hand.contrastive, {}),
        "multi_similarity": (hand.multi_similarity_mined, {"mining": "multi_similarity"}),
        "triplet": (hand.triplet_all, {}),
        "triplet, hard": (hand.triplet_hard, {"mining": "hard"}),
        "triplet, semi_hard": (hand.triplet_semi_hard, {"mining": "semi_hard"}),
        "circle": (hand.circle, {}),
        "smooth_ap": (hand.smooth_ap, {}),
        "proxy_anchor": (hand.proxy_anchor, {"classes": 32, "dim": DIM}),
        "arcface": (hand.arcface, {"classes": 32, "dim": DIM}),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", list(by_hand()))
def test_a_loss_is_what_a_person_writes(case, dtype):
    formula, settings = by_hand()[case]
    torch.manual_seed(0)
    loss = nearfar.losses.create(case.split(",")[0], **settings).to(dtype)
    x = (torch.randn(32, DIM).repeat_interleave(4, 0) + X).to(dtype)
    own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    proxies = [] if loss.proxies is None else [loss.proxies.detach().clone().requires_grad_()]
    value, expected = loss(own, Y), formula(other, Y, *proxies)
    near = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-5}
    torch.testing.assert_close(value, expected, **near)
    value.backward()
    expected.backward()
    torch.testing.assert_close(own.grad, other.grad, **near)
    if proxies:
        torch.testing.assert_close(loss.proxies.grad, proxies[0].grad, **near)


@pytest.mark.parametrize(
    "name", ["supcon", "contrastive", "multi_similarity", "circle", "ntxent", "siglip", "margin"]
)
def test_a_gradient_has_a_gradient(name):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    loss = nearfar.losses.create(name, backend="dense").double()
    assert torch.autograd.gradgradcheck(lambda z: loss(z, torch.arange(8) // 2), (x,))


def test_the_ordinary_call_walks_straight():
    loss, x = nearfar.losses.create("contrastive"), X[:32].clone().requires_grad_()
    source = str(Path(nearfar.__file__).parent)
    lines, calls = set(), 0

    def look(frame: Any, event: str, _: Any) -> Any:
        nonlocal calls
        if not frame.f_code.co_filename.startswith(source):
            return None
        calls += event == "call"
        if event == "line":
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return look

    loss(x, Y[:32]).backward()
    before = sys.gettrace()
    sys.settrace(look)
    try:
        loss(x, Y[:32]).backward()
    finally:
        sys.settrace(before)
    assert len({file for file, _ in lines}) <= 17
    assert len(lines) <= 255
    assert calls <= 100
