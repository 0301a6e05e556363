"""Triplet softmax, as one layer and as the graph of small layers, against the Caffe graph's outputs."""

import json

import numpy as np
import pytest
import torch

from nearfar.caffe.layers import (
    Concat,
    Eltwise,
    EuclideanLoss,
    Power,
    Reduction,
    Reshape,
    Softmax,
    TripletSoftmaxLoss,
)
from nearfar.errors import NearfarError
from problems import golden_folder

SIDES = ["anchor", "positive", "negative"]
CASES = sorted((golden_folder / "losses" / "triplet_softmax").glob("*.npz"))
every_case = pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def load(path, dtype):
    case = dict(np.load(path))
    config = json.loads(str(case["config"]))
    sides = [torch.tensor(case[side], dtype=dtype, requires_grad=True) for side in SIDES]
    if config["same_bottom"]:  # the definition as published: the anchor twice, for both distances
        sides[1] = sides[2] = sides[0]
    return case, config, sides


def distance(x, y, parity):
    difference = Eltwise("SUM", (1, -1))(x, y)
    return Reshape((-1, 1))(Power(0.5, parity=parity)(Reduction("SUMSQ", axis=1)(difference)))


def graph(anchor, positive, negative, order, parity):
    """Return the softmax and the loss."""
    u, v = distance(anchor, positive, parity), distance(anchor, negative, parity)
    share = Softmax()(Concat()(u, v) if order.startswith("[d+") else Concat()(v, u))
    target = torch.tensor([0.0, 1.0] if order.startswith("[d+") else [1.0, 0.0]).to(share).expand_as(share)
    return share, EuclideanLoss()(share, target)


def check(found, expected):
    limit = 1e-5 * np.nanmax(np.abs(expected), initial=0) + 1e-7
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=limit, equal_nan=True)


@every_case
@both_types
@pytest.mark.parametrize("way", ["layer", "graph"])
def test_parity(path, dtype, way):
    case, config, sides = load(path, dtype)
    if way == "layer":
        value = TripletSoftmaxLoss(parity=True)(*sides)
    else:
        share, value = graph(*sides, config["order"], parity=True)
        check(share.detach(), case["softmax"])
    assert value.item() == pytest.approx(float(case["loss"]), rel=2e-6, abs=2e-6)
    if config["same_bottom"]:
        (gradient,) = torch.autograd.grad(value, sides[0])
        assert gradient.isnan().all()
        return
    found = torch.autograd.grad(config["loss_weight"] * value, sides)
    for gradient, side in zip(found, SIDES, strict=True):
        check(gradient, case[f"grad_{side}"])


@every_case
@pytest.mark.parametrize("way", ["layer", "graph"])
def test_default_has_no_nan(path, way):
    case, config, sides = load(path, torch.float64)
    value = (
        TripletSoftmaxLoss()(*sides) if way == "layer" else graph(*sides, config["order"], parity=False)[1]
    )
    assert value.item() == pytest.approx(float(case["loss"]), rel=2e-6, abs=2e-6)
    if config["same_bottom"]:
        return
    found = torch.autograd.grad(config["loss_weight"] * value, sides)
    for gradient, side in zip(found, SIDES, strict=True):
        expected = case[f"grad_{side}"]
        there = ~np.isnan(expected).any(1)
        assert gradient.isfinite().all()
        check(gradient[there], expected[there])


def test_the_bottom_that_is_there_twice_learns_nothing():
    """The published definition: both softmax outputs are 1/2 whatever the net does."""
    x = torch.randn(4, 3, requires_grad=True, generator=torch.Generator().manual_seed(0))
    share, value = graph(x, x, x, "[d+,d-]", parity=False)
    assert (share == 0.5).all()
    assert value.item() == 0.25
    assert not torch.autograd.grad(value, x)[0].any()
    _, value = graph(x, x, x, "[d+,d-]", parity=True)
    assert torch.autograd.grad(value, x)[0].isnan().all()


def test_gradient():
    sides = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in SIDES]
    assert torch.autograd.gradcheck(TripletSoftmaxLoss(), sides)


def test_by_hand():
    """Distances 3 and 4: d+ = 1 / (1 + e)."""
    a, p, n = torch.zeros(1, 2), torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    assert TripletSoftmaxLoss()(a, p, n).item() == pytest.approx(1 / (1 + np.e) ** 2)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("parity", [False, True])
def test_a_number_that_is_not_finite(wrong, parity):
    for side in range(3):
        sides = [torch.randn(4, 3, generator=torch.Generator().manual_seed(k)) for k in range(3)]
        sides[side][1, 2] = wrong
        sides = [x.requires_grad_() for x in sides]
        value = TripletSoftmaxLoss(parity=parity)(*sides)
        assert value.isnan()
        assert all(gradient.isnan().all() for gradient in torch.autograd.grad(value, sides))


def test_what_is_refused():
    with pytest.raises(NearfarError, match=r"shapes \[2, 3\], \[2, 3\], \[3, 3\]"):
        TripletSoftmaxLoss()(torch.ones(2, 3), torch.ones(2, 3), torch.ones(3, 3))
