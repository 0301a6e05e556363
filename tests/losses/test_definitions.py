"""Each loss, with each mining rule, on each backend, against its definition: value and gradient."""

import math

import pytest
import torch

import loss_oracle as oracle
import nearfar
from problems import PAIR_LOSSES, batch

MINING = [None, "hard", "semi_hard", "multi_similarity"]
MEASURES = ["cosine", "dot", "euclidean", "squared_euclidean"]
MARGINS = {"positive_margin": 1.0, "negative_margin": 0.5}


@pytest.mark.parametrize("backend", ["dense", "reference"])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize("name", sorted(oracle.per_anchor))
def test_equals_definition(name, mining, measure, backend):
    x, labels = batch(4, 3, 6, spread=0.8)
    labels[0] = 99  # a class of one
    x = x.requires_grad_()
    settings = MARGINS if name == "contrastive" and measure in ("cosine", "dot") else {}
    given = {"near": 0.0, "far": -1.0} if name == "contrastive" and not settings else {}
    loss = nearfar.losses.create(
        name, mining=mining, similarity=measure, backend=backend, reduction="none", **settings
    )
    ours = loss(x, labels)
    theirs = torch.stack(
        [oracle.per_anchor[name](row, **given) for row in oracle.rows(x, labels, measure, mining)]
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    upstream = torch.linspace(0.5, 1.5, len(x), dtype=torch.float64)
    (grad,) = torch.autograd.grad(ours @ upstream, x, retain_graph=True)
    (expected,) = torch.autograd.grad(theirs @ upstream, x)
    torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize("mining", MINING)
def test_gradcheck(name, mining):
    x, labels = batch(3, 3, 5, spread=0.9, seed=3)
    loss = nearfar.losses.create(name, mining=mining)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), x.requires_grad_(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", ["multi_similarity", "supcon"])
def test_double_backward(name):
    x, labels = batch(3, 2, 4)
    loss = nearfar.losses.create(name)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, labels), x.requires_grad_(), atol=1e-4)


def hand() -> tuple[torch.Tensor, torch.Tensor]:
    """Three unit vectors at 0, 60 and 90 degrees; the first two are one class.

    s_01 = 1/2, s_02 = 0, s_12 = cos 30 = √3/2.
    """
    angle = torch.tensor([0.0, 60.0, 90.0], dtype=torch.float64) * math.pi / 180
    return torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([0, 0, 1])


def test_contrastive_by_hand():
    loss = nearfar.losses.create("contrastive", reduction="none")
    # 0: 1 - 1/2, and s_02 = 0 is under 1/2.  1: 1/2 and √3/2 - 1/2.  2: √3/2 - 1/2.
    expected = [0.5, math.sqrt(3) / 2, math.sqrt(3) / 2 - 0.5]
    assert loss(*hand()).tolist() == pytest.approx(expected)


def test_contrastive_whole_by_hand():
    loss = nearfar.losses.create("contrastive", whole=True, reduction="none")
    assert loss(*hand()).tolist() == pytest.approx([0.5, 0.5 + math.sqrt(3) / 2, math.sqrt(3) / 2])


def test_contrastive_squared_by_hand():
    # Hadsell on the plane: D_01 = 1, D_02 = √2, D_12 = 2 sin 15°; margin 1.
    loss = nearfar.losses.create("contrastive", squared=True, similarity="euclidean", reduction="none")
    push = 0.5 * (1 - 2 * math.sin(math.pi / 12)) ** 2
    assert loss(*hand()).tolist() == pytest.approx([0.5, 0.5 + push, push])


def test_triplet_by_hand():
    # Anchor 0: 0 - 1/2 + 1/5 < 0.  Anchor 1: √3/2 - 1/2 + 1/5.  One of two triplets is active.
    value = math.sqrt(3) / 2 - 0.3
    assert nearfar.losses.create("triplet")(*hand()).item() == pytest.approx(value)
    assert nearfar.losses.create("triplet", reduction="mean_terms")(*hand()).item() == pytest.approx(
        value / 2
    )
    assert nearfar.losses.create("triplet", mining="hard")(*hand()).item() == pytest.approx(value / 2)


def test_triplet_soft_by_hand():
    loss = nearfar.losses.create("triplet", soft=True, margin=0.0, reduction="none")
    expected = [math.log1p(math.exp(-0.5)), math.log1p(math.exp(math.sqrt(3) / 2 - 0.5)), 0.0]
    assert loss(*hand()).tolist() == pytest.approx(expected)


def test_supcon_by_hand():
    loss = nearfar.losses.create("supcon", temperature=1.0, reduction="none")
    expected = [math.log1p(math.exp(-0.5)), math.log1p(math.exp(math.sqrt(3) / 2 - 0.5)), 0.0]
    assert loss(*hand()).tolist() == pytest.approx(expected)


def test_multi_similarity_by_hand():
    loss = nearfar.losses.create("multi_similarity", alpha=1.0, beta=1.0, base=0.5, reduction="none")
    push = math.log1p(math.exp(math.sqrt(3) / 2 - 0.5))
    lone = math.log1p(math.exp(-0.5) + math.exp(math.sqrt(3) / 2 - 0.5))
    assert loss(*hand()).tolist() == pytest.approx(
        [math.log(2) + math.log1p(math.exp(-0.5)), math.log(2) + push, lone]
    )
