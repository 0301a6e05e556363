"""L2Normalize and Norm against the originals' outputs; what the default does where they give NaN."""

import json

import numpy as np
import pytest
import torch

from nearfar.caffe.layers import L2Normalize, Norm
from nearfar.errors import NearfarError
from problems import golden_folder

CASES = sorted((golden_folder / "losses" / "l2normalize").glob("*.npz"))
EVERY = [L2Normalize("A"), L2Normalize("B"), Norm()]


def of(variant, parity):
    return Norm(parity=parity) if variant == "C" else L2Normalize(variant, parity=parity)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_parity(path, dtype):
    case = np.load(path)
    layer = of(json.loads(str(case["config"]))["variant"], parity=True)
    x = torch.tensor(case["x"], dtype=dtype, requires_grad=True)
    y = layer(x)
    (gradient,) = torch.autograd.grad(y, x, torch.tensor(case["grad_out"], dtype=dtype))
    # In one dimension nothing of the gradient is left but the original's rounding.
    slack = 2e-7 if x.shape[1] == 1 else 1e-7
    for found, expected in [(y.detach(), case["y"]), (gradient, case["grad_x"])]:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.nanmax(np.abs(expected)) + slack)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_default_gives_the_same_values(path, dtype):
    case = np.load(path)
    y = of(json.loads(str(case["config"]))["variant"], parity=False)(torch.tensor(case["x"], dtype=dtype))
    np.testing.assert_allclose(y, case["y"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("layer", EVERY, ids=str)
@pytest.mark.parametrize("length", [1.0, 0.01])
def test_default_gives_the_derivative(layer, length):
    x = length * torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(layer, x.requires_grad_(), eps=1e-8 * length, atol=1e-4, rtol=1e-4)


def test_norm_of_the_original_halves_the_gradient_of_short_vectors():
    x = torch.tensor([[0.01, 0.0]], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    gradients = [torch.autograd.grad(Norm(parity)(x), x, g)[0][0, 1].item() for parity in (False, True)]
    assert gradients == pytest.approx([100.0, 50.0], rel=1e-3)


@pytest.mark.parametrize("layer", EVERY, ids=str)
def test_zero_rows(layer):
    x = torch.zeros(2, 3)
    x[1] = torch.tensor([3.0, 0.0, 4.0])
    y = layer(x.requires_grad_())
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y[0].tolist() == [0, 0, 0]
    torch.testing.assert_close(y[1].detach(), torch.tensor([0.6, 0.0, 0.8]))
    assert gradient.isfinite().all()
    if layer is not EVERY[0]:  # A has a derivative at 0
        assert gradient[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("layer", EVERY[1:], ids=repr)
def test_rows_as_good_as_zero(layer):
    """Their direction is rounding, and its gradient would be 1e13 of it."""
    x = torch.full((1, 3), 1e-13, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    assert not y.any()
    assert not torch.autograd.grad(y[0, 0], x)[0].any()


def test_zero_rows_of_the_original():
    y = L2Normalize("B", parity=True)(torch.zeros(1, 3, requires_grad=True))
    y.sum().backward()
    assert y.isnan().all()


def test_blobs_of_four_axes():
    """L2Normalize takes a sample as one vector, Norm the channels at each place."""
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert L2Normalize("B")(x).square().sum((1, 2, 3)).tolist() == pytest.approx([1, 1])
    torch.testing.assert_close(Norm()(x).norm(dim=1), torch.ones(2, 4, 5), atol=1e-5, rtol=0)


def test_what_is_refused():
    with pytest.raises(NearfarError, match="variant 'D' is not one of A, B"):
        L2Normalize("D")
    with pytest.raises(NearfarError, match="axis 1 is out of range for a 1-D blob"):
        Norm()(torch.ones(3))
