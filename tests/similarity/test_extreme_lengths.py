"""Rows of any finite length become unit length: the cosine knows no length, and loses none to the range of floats."""

import pytest
import torch

import nearfar
from nearfar.losses.parts.registry import has_proxies
from nearfar.similarity import normalize
from nearfar.similarity.stable import inverse_lengths

SCALES = {
    torch.float32: [2.0**-120, 2.0**-100, 2.0**-50, 2.0**50, 2.0**66, 2.0**100, 2.0**120],
    torch.float64: [2.0**-1000, 2.0**-600, 2.0**-400, 2.0**400, 2.0**520, 2.0**1000],
}
EXTREME = [(dtype, scale) for dtype, scales in SCALES.items() for scale in scales]


def rows(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize(("dtype", "scale"), EXTREME)
def test_normalize(dtype, scale):
    """A power of two changes no digit: neither of the unit row nor of its gradient, but for the scale."""
    x = rows(dtype)
    x[3] = 0
    weights = x.flip(0)
    found = []
    for factor in (1.0, scale):
        ours = (x * factor).requires_grad_()
        unit = normalize(ours)
        (gradient,) = torch.autograd.grad((unit * weights).sum(), ours)
        found.append((unit.detach(), gradient * factor, inverse_lengths(x * factor) * factor))
    for plain, extreme in zip(*found, strict=True):
        torch.testing.assert_close(extreme, plain, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0)
    assert not found[1][0][3].any()


def test_a_few_rows_among_others():
    x = rows(torch.float64)
    expected = normalize(x)
    x[[1, 4]] *= torch.tensor([[1e200], [1e-200]], dtype=torch.float64)
    torch.testing.assert_close(normalize(x), expected, rtol=1e-14, atol=0)
    x[2] = torch.nan
    assert normalize(x)[2].isnan().all()
    assert not normalize(x)[[0, 1, 3]].isnan().any()


@pytest.mark.parametrize("backend", ["dense", "tiled", "reference"])
@pytest.mark.parametrize(("dtype", "scale"), [EXTREME[1], EXTREME[5], *EXTREME[-6::5]])
@pytest.mark.parametrize(
    "name",
    ["supcon", "triplet", "fast_ap", "ranked_list", "angular", "arcface", "soft_triple", "proxy_anchor"],
)
def test_losses_of_cosines_know_no_length(name, dtype, scale, backend):
    x, labels = rows(dtype), torch.arange(12) // 3
    classes = {"classes": 4, "dim": 5} if has_proxies(name) else {}
    torch.manual_seed(0)
    loss = nearfar.losses.create(name, backend=backend, **classes).to(dtype)
    found = []
    for factor in (1.0, scale):
        ours = (x * factor).requires_grad_()
        value = loss(ours, labels)
        (gradient,) = torch.autograd.grad(value, ours)
        found.append((value.detach(), gradient * factor))
    for plain, extreme in zip(*found, strict=True):
        torch.testing.assert_close(extreme, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["supcon", "multi_similarity"])
def test_a_memory_of_long_rows(name):
    x, labels = rows(torch.float64), torch.arange(12) // 3
    loss = nearfar.losses.create(name, backend="tiled")
    values = []
    for factor in (1.0, 1e200, 1e-200):
        memory = nearfar.CrossBatchMemory(12)
        memory.add(x.flip(0) * factor, labels)
        values.append(loss.eval()(x, labels, memory=memory))
    torch.testing.assert_close(values[1:], [values[0]] * 2)
