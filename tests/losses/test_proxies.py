"""Losses with proxies: value and gradient against the definitions, by hand, at the edges, in tiles."""

import math

import pytest
import torch
from torch import Tensor

import nearfar
from nearfar.losses.parts.registry import registry
from nearfar.similarity.classes import tiles as class_tiles
from problems import BACKENDS
from proxy_oracle import CASES, definitions
from proxy_problems import EVERY, create, gradients, problem
from turns import in_turns

TAGS = [f"{name} {settings}" for name, settings in CASES]


def test_every_loss_with_proxies_is_here():
    assert {name for name in nearfar.losses.names() if registry[name].proxies} == set(EVERY)


@in_turns(3, told=dict(zip(TAGS, CASES, strict=True)), backend=BACKENDS)
def test_is_the_definition(told, backend, monkeypatch):
    name, settings = told
    monkeypatch.setattr(class_tiles, "NARROWEST", 2)  # several blocks
    monkeypatch.setattr(class_tiles, "ELEMENTS", 2)
    x, labels = problem()
    loss = create(name, backend=backend, **settings)
    x.requires_grad_()
    value = loss(x, labels)
    expected = definitions[name](x, loss.proxies, labels, **settings)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(
        gradients(value, x, loss.proxies), gradients(expected, x, loss.proxies), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8 * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("name", EVERY)
def test_gradcheck(name):
    x, labels = problem(4, 4, 4)
    loss = create(name, classes=4, dim=4, backend="dense").eval()  # in training, statistics move

    def value(x, proxies):
        return torch.func.functional_call(loss, {"proxies": proxies}, (x, labels))

    proxies = loss.proxies.detach().clone().requires_grad_()
    # The margin of adaface is a constant for the gradient, though it goes by the length of the embedding.
    x.requires_grad_(name != "adaface")
    assert torch.autograd.gradcheck(value, (x, proxies))


@in_turns(2, name=EVERY, size=[(1, 2, 3), (7, 33, 17), (33, 129, 96), (129, 7, 3)])
def test_float32_tiles_are_as_exact_as_dense(name, size):
    n, classes, dim = size
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, dim, generator=generator)
    labels = torch.randint(classes, (n,), generator=generator)
    found = {}
    for backend, dtype in (
        ("reference", torch.float64), ("dense", torch.float32), ("tiled", torch.float32)
    ):  # fmt: skip
        torch.manual_seed(3)
        loss = nearfar.losses.create(name, classes=classes, dim=dim, backend=backend).to(dtype)
        ours = x.to(dtype).requires_grad_()
        value = loss(ours, labels)
        found[backend] = (value.detach(), *gradients(value, ours, loss.proxies))
    for exact, dense, tiled in zip(*found.values(), strict=True):
        assert tiled.dtype == torch.float32
        scale = exact.abs().max().clamp_min(1e-6)
        errors = [((one.double() - exact).abs().max() / scale).item() for one in (dense, tiled)]
        assert errors[1] <= 2 * errors[0] + 1e-6


@in_turns(
    2,
    name=EVERY,
    backend=["dense", "tiled"],
    edge=["aligned", "opposed", "zero row", "zero proxy", "one row", "one class", "equal"],
)
def test_gradients_are_finite_at_the_edges(name, backend, edge):
    x, labels = problem(4, 6, 5)
    x, loss = x.float(), create(name, backend=backend).float()
    k = len(loss.proxies) // 5
    with torch.no_grad():
        match edge:
            case "aligned" | "opposed":
                x = loss.proxies[labels * k].clone() * (3.0 if edge == "aligned" else -3.0)
            case "zero row":
                x[1] = 0
            case "zero proxy":
                loss.proxies[labels[0] * k] = 0
            case "one row":
                x, labels = x[:1], labels[:1]
            case "one class":
                labels = torch.full_like(labels, 2)
            case "equal":
                x[:] = x[0].clone()
                loss.proxies[:] = loss.proxies[0].clone()
    x.requires_grad_()
    value = loss(x, labels)
    assert value.isfinite()
    for gradient in gradients(value, x, loss.proxies):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e4


@pytest.mark.parametrize("name", EVERY)
def test_order_and_names_of_classes(name):
    x, labels = problem()
    loss = create(name)
    order = torch.randperm(len(x))
    other = nearfar.losses.create(name, classes=torch.arange(5) * 7 - 3, dim=6).double()
    other.load_state_dict({**loss.state_dict(), "class_labels": other.class_labels})
    torch.testing.assert_close(other(x[order], labels[order] * 7 - 3), loss(x, labels))


def test_margins_by_hand():
    """Proxies e1 and e2, an embedding at 30° to e1: cos(30° + m) against cos 60°."""
    x = torch.tensor([[math.cos(math.pi / 6), math.sin(math.pi / 6)]], dtype=torch.float64)
    label = torch.tensor([0])

    def value(name, **settings):
        loss = nearfar.losses.create(name, classes=2, dim=2, **settings).double()
        with torch.no_grad():
            loss.proxies.copy_(torch.eye(2))
        return loss(x, label).item()

    assert value("arcface", margin=math.pi / 6, temperature=0.5) == pytest.approx(math.log(2))  # 0.5 and 0.5
    assert value("cosface", margin=0.366025403784438647, temperature=0.5) == pytest.approx(math.log(2))
    assert value("sphereface", margin=2) == pytest.approx(math.log(2))  # cos 60° and cos 60°
    assert value("large_margin_softmax", margin=6) == pytest.approx(math.log1p(math.exp(0.5 + 1)))  # cos 180°
    assert value("proxy_nca") == pytest.approx((2 - 3**0.5) - 1.0)  # D² = 2 - 2 cos θ
    assert value("center") == pytest.approx(1 - math.cos(math.pi / 6))


def test_arcface_near_alignment_has_the_gradient_of_the_angle():
    """At 1e-5 radians float32 has cos θ = 1: the sine is there all the same, and pushes with sin m."""
    loss = nearfar.losses.create("arcface", classes=2, dim=2, temperature=1.0)
    with torch.no_grad():
        loss.proxies.copy_(torch.eye(2))
    x = torch.tensor([[1.0, 1e-5]], requires_grad=True)
    value = loss(x, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value, x)
    p = 1 / (1 + math.exp(math.cos(0.5)))  # of the other class
    assert gradient[0, 1].item() == pytest.approx(p * (math.sin(0.5) + 1), rel=1e-3)


def test_tiles_hold_nothing_of_the_size_of_the_comparisons():
    """32 anchors against 20,000 classes: what is allocated at any moment is far below a matrix."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, Tensor) and tensor is not proxies:
                    largest = max(largest, tensor.numel())
            return out

    loss = nearfar.losses.create("cosface", classes=20_000, dim=8, backend="tiled")
    proxies = loss.proxies
    x = torch.randn(64, 8, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch, Watch():
        patch.setattr(class_tiles, "ELEMENTS", 2**13)
        loss(x, torch.arange(64)).backward()
    assert largest == 20_000 * 8  # the gradient of the proxies; a matrix would be 64 × 20,000


@pytest.mark.parametrize("name", ["arcface", "proxy_anchor", "soft_triple"])
def test_sums_do_not_depend_on_the_number_of_threads(name):
    loss = nearfar.losses.create(name, classes=700, dim=16, backend="tiled")
    x, labels = torch.randn(40, 16), torch.arange(40) % 13
    found, before = [], torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_tiles, "ELEMENTS", 2**12)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            ours = x.clone().requires_grad_()
            value = loss(ours, labels)
            found.append((value, *gradients(value, ours, loss.proxies)))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_without_gradient(name):
    x, labels = problem()
    loss = create(name, backend="tiled").eval()
    expected = loss(x, labels).detach()
    with torch.no_grad():
        assert loss(x, labels) == expected
    with torch.inference_mode():
        assert loss(x.clone(), labels) == expected


def test_frozen_proxies_and_frozen_embeddings():
    x, labels = problem()
    loss = create("sub_center_arcface", backend="tiled")
    x.requires_grad_()
    whole = gradients(loss(x, labels), x, loss.proxies)
    (of_proxies,) = gradients(loss(x.detach(), labels), loss.proxies)
    loss.proxies.requires_grad_(False)
    (of_embeddings,) = gradients(loss(x, labels), x)
    torch.testing.assert_close((of_embeddings, of_proxies), whole)


def test_gradients_add_up_over_two_steps():
    x, labels = problem()
    loss = create("arcface", backend="tiled")
    (once,) = gradients(loss(x, labels), loss.proxies)
    loss(x, labels).backward()
    value = loss(x, labels)
    value.backward(retain_graph=True)
    (2 * value).backward()
    torch.testing.assert_close(loss.proxies.grad, 4 * once)
