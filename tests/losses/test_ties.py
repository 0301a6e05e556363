"""What a gradient is where a value lies just on a bound: 0 at a hinge, whatever the version of torch."""

import pytest
import torch

import nearfar
from nearfar.models.pooling import GeneralizedMean
from nearfar.pairs import Pairs
from nearfar.similarity import HingeSum, LogSumExp, SigmoidSum, SquaredHingeSum
from problems import BACKENDS

LABELS = torch.tensor([0, 0, 1, 1])
AT_THE_MARGIN = {
    "contrastive": {"positive_margin": 1.0, "negative_margin": 0.0},
    "contrastive squared": {"positive_margin": 1.0, "negative_margin": 0.0, "squared": True},
    "quadruplet": {"margin": 1.0, "second_margin": 1.0},
    "rank_hard": {"margin": 1.0},
    "roadmap": {"positive_margin": 1.0, "negative_margin": 0.0, "calibration": 1.0},
    "triplet": {"margin": 1.0},
    "triplet_weighted": {"margin": 1.0},
}


def corners() -> torch.Tensor:
    """Two classes: <x, y> is 1 within each and 0 between them."""
    return torch.eye(2, dtype=torch.float64).repeat_interleave(2, 0).requires_grad_()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", AT_THE_MARGIN)
def test_at_its_margin_a_pair_is_left_alone(name, backend):
    x = corners()
    settings = {"similarity": "dot", "backend": backend, **AT_THE_MARGIN[name]}
    value = nearfar.losses.create(name.split()[0], **settings)(x, LABELS)
    value.backward()
    assert value == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_distances_at_the_margin_are_left_alone(backend):
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0], [2.0, 0.0]], dtype=torch.float64).requires_grad_()
    settings = {"beta": 1.0, "margin": 1.0, "learn": False, "similarity": "euclidean"}
    value = nearfar.losses.create("margin", backend=backend, **settings)(x, LABELS)
    value.backward()
    assert value == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("reduction", "slope"),
    [
        (HingeSum(0.0), 0.0),
        (SquaredHingeSum(0.0), 0.0),
        (LogSumExp(scale=1.0, shift=0.5, floor=0.0), 0.0),
        (SigmoidSum(0.0, 2.0, 0.0), 0.5),  # a σ'(0): at a cap the slope is that before it
    ],
)
def test_slopes_at_the_kink(reduction, slope, backend):
    """Of each negative, for an anchor and two negatives that lie at its threshold."""
    x = torch.eye(3, dtype=torch.float64).requires_grad_()
    pairs = Pairs.within(x, torch.arange(3), similarity="dot", backend=backend)
    (found,) = pairs.stream(reduction)
    (dx,) = torch.autograd.grad(found[0], x)
    assert dx[1:, 0].tolist() == [slope, slope]


@pytest.mark.parametrize("power", [1.0, 16.0])
def test_a_power_at_its_bound_still_learns(power):
    pool = GeneralizedMean(power)
    pool(torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert pool.power.grad != 0
