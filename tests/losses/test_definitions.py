"""Each loss, with each mining rule, on each backend, against its definition: value and gradient."""

import math

import pytest
import torch

import loss_oracle as oracle
import nearfar
from problems import BACKENDS, PAIR_LOSSES, TWO_SIDED_LOSSES, batch
from turns import in_turns

MINING = [None, "hard", "semi_hard", "multi_similarity"]
MEASURES = ["cosine", "dot", "euclidean", "squared_euclidean"]
MINED = [(None, measure) for measure in MEASURES] + [(rule, "cosine") for rule in MINING[1:]]


def labelled() -> tuple[torch.Tensor, torch.Tensor]:
    """Four classes of three, and one of them with a class of one taken out of it."""
    x, labels = batch(4, 3, 6, spread=0.8)
    labels[0] = 99
    return x.requires_grad_(), labels


def settings_of(name, measure):
    """Settings for ours and for the oracle: margins of distance are similarities to the oracle."""
    if name != "contrastive":
        return {}, {}
    if measure in ("cosine", "dot"):
        return {"positive_margin": 1.0, "negative_margin": 0.5}, {}
    return {}, {"near": 0.0, "far": -1.0}


def same(ours, theirs, x):
    """Compare values [anchor], and gradients of a weighted sum of them."""
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    upstream = torch.linspace(0.5, 1.5, len(x), dtype=torch.float64)
    (grad,) = torch.autograd.grad(ours @ upstream, x)
    (expected,) = torch.autograd.grad(theirs @ upstream, x, retain_graph=True)
    torch.testing.assert_close(grad, expected, rtol=1e-8, atol=1e-9)


@in_turns(2, name=sorted(oracle.per_anchor), told=MINED)
def test_equals_definition(name, told):
    mining, measure = told
    x, labels = labelled()
    settings, given = settings_of(name, measure)
    margin = nearfar.losses.settings(name).parameters.get("margin")
    rows = oracle.rows(
        *oracle.viewed(name, x, measure), labels, mining, 0.2 if margin is None else margin.default
    )
    theirs = torch.stack([oracle.per_anchor[name](row, **given) for row in rows])
    for backend in BACKENDS:
        loss = nearfar.losses.create(
            name,
            mining=mining,
            similarity=measure,
            backend=backend,
            reduction="none",
            learn=False,
            **settings,
        )
        same(loss(x, labels), theirs, x)


VARIANTS = {
    "contrastive averaged": ("contrastive", {"balance": "anchor"}, oracle.contrastive_averaged),
    "contrastive apart": ("contrastive", {"balance": "batch"}, oracle.contrastive),
    "binomial weighted": (
        "binomial_deviance",
        {"alpha": 3.0, "beta": 10.0, "base": 0.3, "positive_weight": 0.7, "negative_weight": 0.2},
        oracle.binomial_deviance,
    ),
    "lifted smooth": (
        "lifted_structure_generalized",
        {"alpha": 2.0, "beta": 10.0, "variant": "smooth"},
        oracle.lifted_structure_generalized,
    ),
    **{
        f"nca {k} inverted={inverted}": ("nca", {"neighbours": k, "inverted": inverted}, oracle.nca)
        for k in (1, 4, 11, 30)
        for inverted in (False, True)
    },
    "circle frozen": ("circle", {"margin": 0.25, "temperature": 0.1, "frozen": True}, oracle.circle),
    "ranked list": (
        "ranked_list",
        {"boundary": 1.0, "margin": 0.9, "sharpness": 2.0, "positive_sharpness": 3.0, "balance": 0.2},
        oracle.ranked_list,
    ),
    "ranked list frozen": (
        "ranked_list",
        {"frozen": True, "positive_sharpness": 3.0, "margin": 1.1},
        oracle.ranked_list,
    ),
    "snr": ("snr_contrastive", {"positive_margin": 0.3, "negative_margin": 2.5}, oracle.snr_contrastive),
    "siglip": ("siglip", {"log_scale": 1.0, "bias": -0.5}, oracle.siglip),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_equal_their_definition(variant):
    name, settings, define = VARIANTS[variant]
    x, labels = labelled()
    given = {key: value for key, value in settings.items() if key != "balance" or name == "ranked_list"}
    rows = oracle.rows(*oracle.viewed(name, x, "cosine"), labels, None)
    theirs = torch.stack([define(row, **given) for row in rows])
    for backend in BACKENDS:
        loss = nearfar.losses.create(name, backend=backend, reduction="none", learn=False, **settings)
        same(loss(x, labels), theirs, x)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", ["lifted_structure", "clip"])
def test_equals_definition_on_both_sides(name, measure):
    x, labels = labelled()
    vectors, compared = oracle.viewed(name, x, measure)
    theirs = getattr(oracle, name)(vectors, labels, compared)
    ids = torch.arange(len(x))
    for backend in BACKENDS:
        loss = nearfar.losses.create(name, similarity=measure, backend=backend, reduction="none", learn=False)
        same(loss(x, labels), theirs, x)
        same(loss(x, labels, x, labels, ids=ids, candidate_ids=ids), theirs, x)


@in_turns(4, name=PAIR_LOSSES + TWO_SIDED_LOSSES, mining=MINING)
def test_gradcheck(name, mining):
    x, labels = batch(3, 3, 3, spread=0.9, seed=3)
    loss = nearfar.losses.create(name, mining=mining)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), x.requires_grad_(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
def test_gradcheck_of_what_is_learned(name, measure):
    x, labels = batch(3, 2, 3, spread=0.9, seed=3)
    loss = nearfar.losses.create(name, similarity=measure).double()
    names = [key for key, _ in loss.named_parameters()]
    start = [p.detach().clone().requires_grad_() for p in loss.parameters()]

    def value(x, *learned):
        return torch.func.functional_call(loss, dict(zip(names, learned, strict=True)), (x, labels))

    assert (
        sorted(names)
        == {
            "clip": ["learned.log_scale"],
            "siglip": ["learned.bias", "learned.log_scale"],
        }[name]
    )
    assert torch.autograd.gradcheck(value, (x.requires_grad_(), *start), atol=1e-5)


def test_length_of_embeddings_costs():
    """One pair per class, anchors against candidates: λ/4 (mean |a|² + mean |p|²) on top."""
    a, p = batch(5, 1, 4)[0] * 2, batch(5, 1, 4, seed=1)[0] * 3
    labels = torch.arange(5)
    plain, regularised = (nearfar.losses.create("npair", similarity="dot", l2=l2) for l2 in (0.0, 0.1))
    extra = regularised(a, labels, p, labels) - plain(a, labels, p, labels)
    assert extra.item() == pytest.approx(0.1 / 4 * (4 + 9))


def test_clip_is_cross_entropy_both_ways():
    images, texts = (batch(6, 1, 4, seed=seed)[0] for seed in (0, 1))
    labels = torch.arange(6)
    loss = nearfar.losses.create("clip", log_scale=1.5)
    logits = math.exp(1.5) * images @ texts.T
    expected = (
        torch.nn.functional.cross_entropy(logits, labels)
        + torch.nn.functional.cross_entropy(logits.T, labels)
    ) / 2
    assert loss(images, labels, texts, labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_siglip_is_a_sum_over_all_pairs():
    images, texts = (batch(6, 1, 4, seed=seed)[0] for seed in (0, 1))
    labels = torch.arange(6)
    loss = nearfar.losses.create("siglip")
    sign = 2 * torch.eye(6) - 1
    expected = -torch.nn.functional.logsigmoid(sign * (10 * images @ texts.T - 10)).sum() / 6
    assert loss(images, labels, texts, labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_an_orphan_repels_only_when_asked():
    """Row 2 has no positive: its value is 0; the layer gives it the gradient of log Σ exp s all the same."""
    x, labels = batch(3, 1, 4)[0], torch.tensor([0, 0, 1])
    x.requires_grad_()
    plain, repelling, half = (
        nearfar.losses.create("npair_mined", similarity="dot", reduction="none", **settings)(x, labels)
        for settings in ({}, {"orphan_repulsion": True}, {"gradient": "caffe"})
    )
    assert plain[2] == 0
    assert torch.equal(plain, repelling)
    torch.testing.assert_close(plain, half)
    (none,) = torch.autograd.grad(plain[2], x, retain_graph=True)
    assert (none == 0).all()
    (push,) = torch.autograd.grad(repelling[2], x)
    (expected,) = torch.autograd.grad(torch.logsumexp(x[:2] @ x[2], 0), x)
    torch.testing.assert_close(push, expected)
    (whole,) = torch.autograd.grad(plain.sum(), x)
    torch.testing.assert_close(torch.autograd.grad(half.sum(), x)[0], whole / 2)


@pytest.mark.parametrize("name", ["multi_similarity", "supcon"])
def test_double_backward(name):
    x, labels = batch(3, 2, 4)
    loss = nearfar.losses.create(name)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, labels), x.requires_grad_(), atol=1e-4)
