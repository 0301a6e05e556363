"""Eltwise, Reduction, Power, Softmax, EuclideanLoss, Reshape, Concat, InnerProduct: as Caffe defines them."""

import copy

import numpy as np
import pytest
import torch

from nearfar.caffe.layers import (
    Concat,
    Eltwise,
    EuclideanLoss,
    InnerProduct,
    Power,
    Reduction,
    Reshape,
    Softmax,
)
from nearfar.errors import NearfarError


def blob(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


def test_eltwise():
    a, b, c = (blob(2, 3, seed=seed) for seed in range(3))
    torch.testing.assert_close(Eltwise()(a, b, c), a + b + c)
    torch.testing.assert_close(Eltwise("SUM", (1, -1, 0.5))(a, b, c), a - b + 0.5 * c)
    torch.testing.assert_close(Eltwise("PROD")(a, b, c), a * b * c)
    torch.testing.assert_close(Eltwise("MAX")(a, b, c), torch.maximum(torch.maximum(a, b), c))
    for operation in ("SUM", "PROD", "MAX"):
        assert torch.autograd.gradcheck(Eltwise(operation), (a, b, c))


def test_eltwise_of_equals_gives_the_gradient_to_one():
    a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    Eltwise("MAX")(a, b).sum().backward()
    assert (a.grad + b.grad).tolist() == [1, 1]
    assert a.grad.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("operation", "of"),
    [
        ("SUM", torch.sum),
        ("ASUM", lambda x, d: x.abs().sum(d)),
        ("SUMSQ", lambda x, d: x.square().sum(d)),
        ("MEAN", torch.mean),
    ],
)
@pytest.mark.parametrize(("axis", "left"), [(0, ()), (1, (2,)), (2, (2, 3)), (-1, (2, 3)), (-2, (2,))])
def test_reduction(operation, of, axis, left):
    x = blob(2, 3, 4)
    layer = Reduction(operation, axis, coeff=2.5)
    expected = 2.5 * of(x.flatten(len(left)), -1)
    assert layer(x).shape == left
    torch.testing.assert_close(layer(x), expected)
    assert torch.autograd.gradcheck(layer, x)


@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize(
    "settings", [(1, 2, 3), (2, 1, 0), (0.5, 1, 4), (-1, 2, 5), (3, -1, 0), (0, 1, 0), (2, 0, 3)]
)
def test_power(settings, parity):
    power, scale, shift = settings
    x = blob(3, 4)
    layer = Power(power, scale, shift, parity)
    base = shift + scale * x.detach().numpy()
    np.testing.assert_allclose(layer(x).detach(), base**power)
    assert torch.autograd.gradcheck(layer, x)


def test_the_root_of_zero():
    """Subgradient 0 of a distance of 0; the original divides 0 by 0."""
    for parity in (False, True):
        x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
        root = Power(0.5, parity=parity)(Reduction("SUMSQ", axis=1)(x))
        assert root.tolist() == [5, 0]
        root.sum().backward()
        assert x.grad[0].tolist() == pytest.approx([0.6, 0.8])
        assert x.grad[1].isnan().all() if parity else not x.grad[1].any()


def test_powers_below_one_at_zero():
    x = torch.zeros(1, requires_grad=True)
    for power, value in ((0.5, 0.0), (-1.0, torch.inf)):
        top = Power(power)(x)
        assert top.item() == value
        assert torch.autograd.grad(top, x)[0].item() == 0


def test_the_square_of_zero_in_the_original():
    """Power 2 has a rule of its own there; power 3 divides 0 by 0."""
    for power, is_nan in ((2, False), (3, True)):
        x = torch.zeros(1, requires_grad=True)
        (gradient,) = torch.autograd.grad(Power(power, parity=True)(x), x)
        assert gradient.isnan().item() == is_nan


def test_euclidean_loss_by_hand():
    """Half the mean over two samples of 4 + 1 and 9."""
    x, y = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.zeros(2, 2)
    assert EuclideanLoss()(x, y).item() == 14 / 4
    assert EuclideanLoss()(x, y.view(2, 2, 1, 1)).item() == 14 / 4


def test_softmax():
    x = blob(2, 3, 4)
    torch.testing.assert_close(Softmax()(x), x.softmax(1))
    torch.testing.assert_close(Softmax(-1)(x), x.softmax(2))


@pytest.mark.parametrize(
    ("shape", "axis", "num_axes", "expected"),
    [
        ((6, 4), 0, -1, (6, 4)),
        ((0, -1), 0, -1, (2, 12)),
        ((-1, 1), 0, -1, (24, 1)),
        ((12,), 1, -1, (2, 12)),
        ((2, 2), -2, 1, (2, 3, 2, 2)),
        ((1,), 1, 0, (2, 1, 3, 4)),
        ((1,), -1, -1, (2, 3, 4, 1)),
        ((-1,), 0, 2, (6, 4)),
        ((0, 0, 2, -1), 0, -1, (2, 3, 2, 2)),
    ],
)
def test_reshape(shape, axis, num_axes, expected):
    x = blob(2, 3, 4)
    y = Reshape(shape, axis, num_axes)(x)
    assert y.shape == expected
    assert (y.flatten() == x.flatten()).all()


def test_concat():
    a, b = blob(2, 3), blob(2, 5, seed=1)
    assert (Concat()(a, b) == torch.cat([a, b], 1)).all()
    assert Concat(axis=0)(a, a).shape == (4, 3)
    assert Concat(axis=-1)(a).shape == (2, 3)


@pytest.mark.parametrize("transpose", [False, True])
def test_inner_product(transpose):
    torch.manual_seed(0)
    layer = InnerProduct(4, transpose=transpose)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)  # before the first batch, as a user may
    x = blob(5, 2, 3).float()
    y = layer(x)
    weight = layer.weight.mT if transpose else layer.weight
    assert layer.weight.shape == ((6, 4) if transpose else (4, 6))
    torch.testing.assert_close(y, x.flatten(1) @ weight.mT + layer.bias)
    y.square().sum().backward()
    before = layer.weight.detach().clone()
    optimizer.step()
    assert not layer.weight.equal(before)
    for again in (InnerProduct(4, transpose=transpose, in_features=6), InnerProduct(4, transpose=transpose)):
        again.load_state_dict(layer.state_dict())
        torch.testing.assert_close(copy.deepcopy(again)(x), layer(x))


def test_inner_product_over_the_last_axis():
    assert InnerProduct(4, bias_term=False, axis=2)(torch.ones(5, 2, 3)).shape == (5, 2, 4)
    assert InnerProduct(4, axis=-1)(torch.ones(5, 2, 3)).shape == (5, 2, 4)


@pytest.mark.parametrize(
    ("layer", "bottoms", "sentence"),
    [
        (Concat(), [torch.ones(3)], "axis 1 is out of range for a 1-D blob of shape \\[3\\]"),
        (Softmax(), [torch.ones(3)], "axis 1 is out of range for a 1-D blob"),
        (Reduction(axis=-3), [torch.ones(3, 2)], "axis -3 is out of range for a 2-D blob"),
        (InnerProduct(2), [torch.ones(3)], "axis 1 is out of range"),
        (Concat(), [torch.ones(2, 2), torch.ones(3, 2)], "differ there only; got \\[2, 2\\] and \\[3, 2\\]"),
        (Concat(), [], "one bottom or more; got none"),
        (Eltwise(), [torch.ones(2)], "two bottoms or more; got 1"),
        (Eltwise(), [torch.ones(2), torch.ones(3)], "one shape; got \\[2\\] and \\[3\\]"),
        (Eltwise("SUM", (1, 2, 3)), [torch.ones(2)] * 2, "3 coefficients but 2 bottoms"),
        (EuclideanLoss(), [torch.ones(2, 2), torch.ones(2)], "one size; got \\[2, 2\\] and \\[2\\]"),
        (Reshape((5,)), [torch.ones(2, 3)], "cannot bring \\[2, 3\\], 6 numbers, to shape \\[5\\]"),
        (Reshape((4, -1)), [torch.ones(2, 3)], "cannot bring"),
        (Reshape((1, 1, 0)), [torch.ones(2, 3)], "keeps the size of axis 2"),
        (Reshape((1,), 1, 3), [torch.ones(2, 3)], "replaces 3 axes from axis 1 on"),
        (
            InnerProduct(2, in_features=4),
            [torch.ones(3, 5)],
            "made for 4 inputs but the blob \\[3, 5\\] has 5",
        ),
    ],
)
def test_bottoms_that_are_refused(layer, bottoms, sentence):
    with pytest.raises(NearfarError, match=sentence):
        layer(*bottoms)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Eltwise("DIV"), "operation 'DIV' is not one of PROD, SUM, MAX"),
        (lambda: Eltwise("MAX", (1, 1)), "coefficients for SUM only"),
        (lambda: Reduction("SUMSQR"), "Did you mean 'SUMSQ'"),
        (lambda: Reshape((-1, -1)), "got \\[-1, -1\\]"),
        (lambda: InnerProduct(0), "num_output of 1 or more; got 0"),
    ],
)
def test_settings_that_are_refused(make, sentence):
    with pytest.raises(NearfarError, match=sentence):
        make()


def test_inner_product_is_saved_before_and_after_its_first_batch():
    layer = InnerProduct(4)
    assert list(layer.state_dict()) == ["bias"]
    layer(torch.randn(2, 3))
    other = InnerProduct(4)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other.weight, layer.weight)
