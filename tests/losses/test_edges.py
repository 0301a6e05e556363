"""Batches in which something is missing, doubled, huge or tiny: finite, zero where nothing is to be learned."""

import pytest
import torch

import nearfar
from problems import PAIR_LOSSES, batch

MINING = [None, "hard", "semi_hard", "multi_similarity"]
every_loss = pytest.mark.parametrize("name", PAIR_LOSSES)
every_mining = pytest.mark.parametrize("mining", MINING)
every_measure = pytest.mark.parametrize("measure", ["cosine", "euclidean", "squared_euclidean"])


def run(name, mining, measure, x, labels):
    loss = nearfar.losses.create(name, mining=mining, similarity=measure)
    x = x.clone().requires_grad_()
    value = loss(x, labels)
    (grad,) = torch.autograd.grad(value, x)
    assert torch.isfinite(value)
    assert torch.isfinite(grad).all()
    return value.item(), grad


@every_loss
@every_mining
@every_measure
@pytest.mark.filterwarnings("ignore:this batch has no positive pair")
@pytest.mark.parametrize(
    "labels",
    [[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 2], [5], [], [0, 0]],
    ids=["one class", "all distinct", "singletons", "one row", "no row", "one pair"],
)
def test_missing(name, mining, measure, labels):
    x, _ = batch(4, 1, 5)
    run(name, mining, measure, x[: len(labels)], torch.tensor(labels, dtype=torch.long))


@every_loss
@every_mining
@every_measure
def test_duplicates(name, mining, measure):
    x, labels = batch(3, 2, 5)
    run(name, mining, measure, torch.cat([x, x]), torch.cat([labels, labels]))


@every_loss
@every_mining
@every_measure
def test_all_embeddings_alike(name, mining, measure):
    x = torch.full((6, 4), 0.5, dtype=torch.float64)
    run(name, mining, measure, x, torch.tensor([0, 0, 1, 1, 2, 2]))


@every_loss
@every_mining
@every_measure
def test_zero_vectors(name, mining, measure):
    x, labels = batch(3, 3, 5)
    x[:2] = 0
    run(name, mining, measure, x, labels)


@every_loss
@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_scale_does_not_matter_to_the_cosine(name, scale):
    x, labels = batch(4, 3, 6)
    value, _ = run(name, None, "cosine", x, labels)
    scaled, _ = run(name, None, "cosine", scale * x, labels)
    assert scaled == pytest.approx(value, rel=1e-9)


@every_loss
@every_mining
def test_an_anchor_with_nothing_to_compare_gets_nothing(name, mining):
    """The only candidate carries the id of anchor 0: it compares with nothing."""
    x, labels = batch(3, 2, 5)
    x.requires_grad_()
    loss = nearfar.losses.create(name, mining=mining, reduction="none")
    ids = torch.arange(len(x))
    candidates, candidate_labels = x[1:2].detach(), labels[1:2]
    values = loss(x, labels, candidates, candidate_labels, ids=ids, candidate_ids=torch.tensor([0]))
    assert values[0] == 0
    (grad,) = torch.autograd.grad(values.sum(), x)
    assert (grad[0] == 0).all()


@every_loss
def test_small_temperatures_and_large_scales_stay_finite(name):
    settings = {"supcon": {"temperature": 0.005}, "multi_similarity": {"beta": 1000.0}}.get(name, {})
    x, labels = batch(4, 3, 6, spread=0.1)
    x = x.float().requires_grad_()
    value = nearfar.losses.create(name, **settings)(x, labels)
    (grad,) = torch.autograd.grad(value, x)
    assert torch.isfinite(value)
    assert torch.isfinite(grad).all()


def test_confident_pairs_keep_their_digits_in_float32():
    """One positive at s = 1, negatives at -1: the loss is 2 e^-20, which a softmax over all would round to 0."""
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    value = nearfar.losses.create("supcon", temperature=0.1)(x, torch.tensor([0, 0, 1, 1]))
    assert value.item() == pytest.approx(
        2 * torch.exp(torch.tensor(-20.0, dtype=torch.float64)).item(), rel=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x, labels = batch(4, 3, 6)
    x = x.to(dtype).requires_grad_()
    for name in PAIR_LOSSES:
        value = nearfar.losses.create(name, similarity="euclidean")(x, labels)
        assert value.dtype == torch.float32
        expected = nearfar.losses.create(name, similarity="euclidean")(x.float(), labels)
        torch.testing.assert_close(value, expected)
        (grad,) = torch.autograd.grad(value, x)
        assert grad.dtype == dtype
