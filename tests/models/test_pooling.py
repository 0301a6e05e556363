"""Pooling against its definitions in float64."""

import pytest
import torch
from torch.autograd import gradcheck

from nearfar.errors import ConfigError
from nearfar.models.heads import create_head
from nearfar.models.pooling import NAMES, GeneralizedMean, create_pooling


def maps(**settings: object) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 5, 4, 2, generator=generator, **settings)


def defined(name: str, x: torch.Tensor, power: float = 3.0) -> torch.Tensor:
    out = torch.zeros(x.shape[:2], dtype=torch.float64)
    for n in range(x.shape[0]):
        for feature in range(x.shape[1]):
            values = x[n, feature].double().flatten().tolist()
            mean, largest = sum(values) / len(values), max(values)
            floor = [max(value, 1e-6) for value in values]
            out[n, feature] = {
                "avg": mean,
                "max": largest,
                "avg+max": mean + largest,
                "gem": (sum(value**power for value in floor) / len(floor)) ** (1 / power),
            }[name]
    return out


@pytest.mark.parametrize("name", NAMES)
def test_values(name: str) -> None:
    pooled = create_pooling(name)(maps())
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled.double(), defined(name, maps()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_low_precision_is_summed_in_float32(name: str) -> None:
    low = maps().to(torch.bfloat16)
    pooled = create_pooling(name)(low)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled.double(), defined(name, low), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("power", [1.0, 2.5, 8.0])
def test_gem_gradients_of_maps_and_power(power: float) -> None:
    x = (maps(dtype=torch.float64).abs() + 0.1).requires_grad_()
    p = torch.tensor(power + 1e-3, dtype=torch.float64, requires_grad=True)

    # gradcheck needs float64, and the module works in float32: the same formula, and then the module against
    # it.
    def formula(values: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
        return values.pow(exponent).mean((2, 3)).pow(1 / exponent)

    assert gradcheck(formula, (x, p))
    expected = torch.autograd.grad(formula(x, p).square().sum(), (x, p))
    module = GeneralizedMean(power + 1e-3)
    single = x.detach().float().requires_grad_()
    found = torch.autograd.grad(module(single).square().sum(), (single, module.power))
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left.double(), right, rtol=2e-4, atol=1e-6)


def test_gem_between_mean_and_maximum_whatever_the_size() -> None:
    x = maps().abs()
    torch.testing.assert_close(GeneralizedMean(1.0)(x), x.mean((2, 3)))
    assert (GeneralizedMean(16.0)(x) <= x.amax((2, 3))).all()
    for scale in (1e-4, 1e6):  # (1e6)^16 is far outside float32
        torch.testing.assert_close(
            GeneralizedMean(16.0)(x * scale), GeneralizedMean(16.0)(x) * scale, rtol=1e-3, atol=1e-6
        )


def test_gem_of_nothing_positive_is_finite() -> None:
    x = torch.full((2, 3, 2, 2), -1.0, requires_grad=True)
    module = GeneralizedMean()
    module(x).sum().backward()
    assert x.grad is not None
    assert (x.grad == 0).all()
    assert module.power.grad is not None
    assert module.power.grad.isfinite()


def test_a_power_below_1_counts_as_1() -> None:
    x = maps().abs() + 0.1
    torch.testing.assert_close(GeneralizedMean(-2.0)(x), x.mean((2, 3)))


def test_a_hand_worked_mean() -> None:
    x = torch.tensor([1.0, 2.0, 2.0, 3.0]).view(1, 1, 2, 2)
    torch.testing.assert_close(GeneralizedMean(2.0)(x), torch.tensor([[4.5**0.5]]))


def test_names() -> None:
    with pytest.raises(ConfigError, match=r"unknown pooling 'gme'; expected one of .* Did you mean 'gem'"):
        create_pooling("gme")
    with pytest.raises(ConfigError, match=r"unknown head 'mlp'; expected one of linear, none"):
        create_head("mlp", 4, 2, layer_norm=False)
    with pytest.raises(ConfigError, match="dim must be 1 or more; got 0"):
        create_head("linear", 4, 0, layer_norm=False)
