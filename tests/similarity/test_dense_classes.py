"""Similarities with classes in memory: closed forms, against float64 and plain autograd."""

import pytest
import torch
from torch import Tensor

from nearfar.similarity import LogSumExp
from nearfar.similarity.classes.block import ClassBlock
from nearfar.similarity.classes.dense import DenseClassBlock
from nearfar.similarity.classes.own import Geometry
from nearfar.similarity.interval import Interval

GEOMETRIES = [Geometry("cosine"), Geometry("dot", unit_anchors=False, unit_proxies=False)]
PLACE = torch.tensor([0, 2, 2, 1, 0])


def vectors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, 6, generator=generator, dtype=torch.float64).to(dtype) for n in (5, 4))
    return x.requires_grad_(), w.requires_grad_()


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def of_own(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    own = DenseClassBlock(x, w, PLACE, GEOMETRIES[0]).own
    return own.similarity, own.sine


def of_classes(geometry: Geometry, x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    block = DenseClassBlock(x, w, PLACE, geometry)
    return block.by_class(LogSumExp(scale=3.0, shift=0.2), LogSumExp(scale=-2.0))[0], block.own.similarity


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: g.measure)
def test_gradients_of_classes(geometry: Geometry) -> None:
    inputs = vectors()
    assert torch.autograd.gradcheck(lambda x, w: of_classes(geometry, x, w), inputs)
    assert torch.autograd.gradgradcheck(lambda x, w: of_classes(geometry, x, w), inputs)


def test_gradients_of_cosine_and_sine() -> None:
    assert torch.autograd.gradcheck(of_own, vectors())
    assert torch.autograd.gradgradcheck(of_own, vectors())


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: g.measure)
def test_is_plain_autograd(geometry: Geometry) -> None:
    """The vectors of the own class, as given and as compared, and what is asked of either side."""
    found = []
    for block in (
        DenseClassBlock(*(inputs := vectors()), PLACE, geometry),
        ClassBlock(*inputs, PLACE, geometry, streaming=False),
    ):
        own = block.own
        values = [own.given, own.proxies, own.anchors, own.candidates, own.similarity, own.sine]
        values += [block.matrix, *block.stream(Interval(), PLACE[:0], [LogSumExp(scale=5.0)])]
        values += block.stream(Interval(), PLACE[:0], [LogSumExp(scale=5.0, per="candidate")])
        total = sum((value.sin() * torch.arange(value.numel()).view(value.shape)).sum() for value in values)
        found.append([*values, *torch.autograd.grad(total, inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("angle", [1e-5, 1e-3, 0.5, 2.0, torch.pi - 1e-3, torch.pi - 1e-5])
def test_sine_keeps_the_digits(angle: float) -> None:
    """In float32, where 1 - cos² has lost them; so does its gradient."""
    x, w = vectors(torch.float32)
    place, own = torch.tensor([1]), w.detach()[1:2].double()
    across = unit(torch.randn(1, 6, dtype=torch.float64))
    across = unit(across - (across * unit(own)).sum() * unit(own))
    turn = torch.tensor(angle, dtype=torch.float64)
    x = (3 * (unit(own) * turn.cos() + across * turn.sin())).float().requires_grad_()
    block = DenseClassBlock(x, w, place, GEOMETRIES[0])
    value = block.own.sine
    exact = [z.detach().double().requires_grad_() for z in (x, w)]
    there = sine_by_autograd(exact[0], exact[1][1:2])
    torch.testing.assert_close(value.double(), there, rtol=2e-7, atol=2e-7)
    got, expected = torch.autograd.grad(value, [x, w]), torch.autograd.grad(there, exact)
    for one, other in zip(got, expected, strict=True):
        assert (one - other).norm() <= (1e-6 + 1e-6 / there.item()) * other.norm()


def sine_by_autograd(x: Tensor, w: Tensor) -> Tensor:
    u, v = unit(x), unit(w)
    return (u - (u * v).sum(1, keepdim=True) * v).norm(dim=1)


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_the_sine_has_no_gradient_at_its_kink(factor: float) -> None:
    u = torch.eye(3)[:2].requires_grad_()
    cosine = torch.full((2,), factor, requires_grad=True)
    value = DenseClassBlock(u, factor * u.detach(), torch.arange(2), GEOMETRIES[0]).sine(cosine)
    assert (value == 0).all()
    assert (torch.autograd.grad(value.sum(), cosine)[0] == 0).all()
