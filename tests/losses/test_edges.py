"""Batches in which something is missing, doubled, huge or tiny: finite, zero where nothing is to be learned."""

import pytest
import torch

import nearfar
from nearfar.errors import NearfarError
from problems import BACKENDS, PAIR_LOSSES, TWO_SIDED_LOSSES, batch
from turns import in_turns

MINING = [None, "hard", "semi_hard", "multi_similarity"]
LOSSES = PAIR_LOSSES + TWO_SIDED_LOSSES
FEW = {
    "one class": [0, 0, 0, 0],
    "all distinct": [0, 1, 2, 3],
    "singletons": [0, 0, 1, 2],
    "one row": [5],
    "no row": [],
    "one pair": [0, 0],
}


def measures(mining):
    """All of them, and the one whose gradient divides by the distance where a rule has chosen pairs."""
    return ["euclidean"] if mining else ["cosine", "euclidean", "squared_euclidean"]


def run(name, mining, measure, x, labels):
    """Finite on every backend."""
    x = x.clone().requires_grad_()
    found = []
    for backend in BACKENDS:
        loss = nearfar.losses.create(name, mining=mining, similarity=measure, backend=backend)
        value = loss(x, labels)
        (grad,) = torch.autograd.grad(value, x)
        assert torch.isfinite(value), (backend, measure)
        assert torch.isfinite(grad).all(), (backend, measure)
        found.append((value.item(), grad))
    return found[0]


@pytest.mark.filterwarnings("ignore:this batch has no positive pair")
@in_turns(4, name=LOSSES, mining=MINING, labels=FEW)
def test_missing(name, mining, labels):
    x, _ = batch(4, 1, 5)
    for measure in measures(mining):
        run(name, mining, measure, x[: len(labels)], torch.tensor(labels, dtype=torch.long))


@in_turns(4, name=LOSSES, mining=MINING)
def test_duplicates(name, mining):
    x, labels = batch(3, 2, 5)
    for measure in measures(mining):
        run(name, mining, measure, torch.cat([x, x]), torch.cat([labels, labels]))


@in_turns(4, name=LOSSES, mining=MINING)
def test_all_embeddings_alike(name, mining):
    x = torch.full((6, 4), 0.5, dtype=torch.float64)
    for measure in measures(mining):
        run(name, mining, measure, x, torch.tensor([0, 0, 1, 1, 2, 2]))


@in_turns(4, name=LOSSES, mining=MINING)
def test_zero_vectors(name, mining):
    x, labels = batch(3, 3, 5)
    x[:2] = 0
    for measure in measures(mining):
        run(name, mining, measure, x, labels)


@in_turns(2, name=LOSSES, scale=[1e-4, 1e3])
def test_scale_does_not_matter_to_the_cosine(name, scale):
    x, labels = batch(4, 3, 6)
    value, _ = run(name, None, "cosine", x, labels)
    scaled, _ = run(name, None, "cosine", scale * x, labels)
    assert scaled == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "mining"),
    [(name, mining) for name in PAIR_LOSSES for mining in MINING]
    + [(name, None) for name in TWO_SIDED_LOSSES],
)
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


@pytest.mark.parametrize("name", LOSSES)
def test_small_temperatures_and_large_scales_stay_finite(name):
    settings = {
        "binomial_deviance": {"beta": 1000.0},
        "clip": {"log_scale": 7.0},
        "lifted_structure_generalized": {"alpha": 1000.0, "beta": 1000.0},
        "multi_similarity": {"beta": 1000.0},
        "ranked_list": {"sharpness": 1000.0, "positive_sharpness": 1000.0},
        "siglip": {"log_scale": 7.0, "bias": -200.0},
    }.get(name, {})
    if "temperature" in nearfar.losses.settings(name).parameters:
        settings = {"temperature": 0.005}
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
    for name in PAIR_LOSSES + TWO_SIDED_LOSSES:
        value = nearfar.losses.create(name, similarity="euclidean")(x, labels)
        assert value.dtype == torch.float32
        expected = nearfar.losses.create(name, similarity="euclidean")(x.float(), labels)
        torch.testing.assert_close(value, expected)
        (grad,) = torch.autograd.grad(value, x)
        assert grad.dtype == dtype


def test_confident_pairs_keep_their_digits_in_ntxent_and_nca():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    for name in ("ntxent", "nca"):
        value = nearfar.losses.create(name, temperature=0.1)(x, torch.tensor([0, 0, 1, 1]))
        assert value.item() == pytest.approx(4.122307e-9, rel=1e-5)  # 2 e^-20


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_tuplet_margin_of_a_positive_that_lies_on_its_anchor(margin):
    """sin θ has no derivative at θ = 0; its subgradient is 0, and half a turn away nothing is negative."""
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1])
    run_with = nearfar.losses.create("tuplet_margin", margin=margin)
    z = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(run_with(z, labels), z)
    assert torch.isfinite(grad).all()


def test_an_embedding_without_variance_has_no_signal():
    """Rows of one number, up to rounding: no ratio of noise to signal, and no blow-up."""
    x, labels = batch(3, 3, 7)
    x[:2] = 0.1
    value, _ = run("snr_contrastive", None, "dot", x.float(), labels)
    assert abs(value) < 1e3


@pytest.mark.parametrize("name", TWO_SIDED_LOSSES)
def test_both_sides_of_chosen_negatives(name):
    """A few negatives chosen for each anchor say nothing of a candidate's anchors, unless it is an anchor."""
    x, labels = batch(3, 3, 5)
    loss = nearfar.losses.create(name, mining="hard")
    assert loss(x, labels).item() > 0
    with pytest.raises(NearfarError, match="this loss reduces over each candidate's anchors"):
        loss(x, labels, x.clone(), labels)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_one_scale_for_all_classes(name):
    x, labels = batch(3, 3, 5)
    with pytest.raises(NearfarError, match="learns nothing for each class"):
        nearfar.losses.create(name, classes=3)(x, labels)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("binomial_deviance", {"beta": 0.0}, "alpha and beta must be positive"),
        ("binomial_deviance", {"positive_weight": -1.0}, "weights must not be negative"),
        ("circle", {"temperature": 0.0}, "temperature must be positive"),
        ("lifted_structure_generalized", {"alpha": 0.0}, "alpha and beta must be positive"),
        ("nca", {"temperature": 0.0}, "temperature must be positive"),
        ("nca", {"neighbours": 0}, "neighbours must be at least 1"),
        ("npair", {"l2": -1.0}, "l2 must not be negative"),
        ("npair", {"l2": 0.1}, "use similarity='dot'"),
        ("ntxent", {"temperature": 0.0}, "temperature must be positive"),
        ("ranked_list", {"margin": 1.3}, "margin must lie between 0 and boundary"),
        ("ranked_list", {"sharpness": -1.0}, "sharpness must not be negative"),
        ("ranked_list", {"balance": 2.0}, "balance must lie between 0 and 1"),
        ("snr_contrastive", {"negative_margin": -1.0}, "margins must not be negative"),
        ("tuplet_margin", {"temperature": 0.0}, "temperature must be positive"),
        ("tuplet_margin", {"margin": 2.0}, "margin is an angle in radians"),
    ],
)
def test_settings_out_of_range(name, settings, sentence):
    x, labels = batch(3, 2, 4)
    with pytest.raises(NearfarError, match=sentence):
        nearfar.losses.create(name, **settings)(x, labels)
