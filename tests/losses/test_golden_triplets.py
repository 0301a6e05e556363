"""Triplet losses against outputs of the original implementations (tests/golden/losses/README.md)."""

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import nearfar
from nearfar.losses.margin import margin
from nearfar.losses.rank_hard import rank_hard
from nearfar.losses.triplet_softmax import triplet_softmax
from nearfar.similarity import Relevance
from problems import BACKENDS, golden_folder
from turns import in_turns

TYPES = {"float32": torch.float32, "float64": torch.float64}
each_type_and_backend = in_turns(2, dtype=TYPES, backend=BACKENDS)
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def cases(system, where=lambda config: True):
    found = sorted((golden_folder / "losses" / system).glob("*.npz"))
    found = [path for path in found if where(json.loads(str(np.load(path)["config"])))]
    assert found, system
    return pytest.mark.parametrize("path", found, ids=lambda p: p.stem)


def load(path, dtype):
    z = dict(np.load(path, allow_pickle=False))
    config = json.loads(str(z.pop("config")))
    x = torch.from_numpy(z["embeddings"]).to(dtype).requires_grad_()
    return z, config, x, torch.from_numpy(z["labels"]).long()


def check(value, expected, inputs, gradients):
    """Compare with the originals (float32) to the tolerances of the README."""
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    assert value.item() == pytest.approx(float(expected), rel=2e-6, abs=2e-6)
    for ours, theirs in zip(found, gradients, strict=True):
        assert np.abs(ours.numpy() - theirs).max(initial=0) <= 1e-5 * np.abs(theirs).max(initial=0) + 1e-7


@cases("triplet_softmax", lambda config: not config["same_bottom"])
@each_type_and_backend
def test_triplet_softmax(path, dtype, backend):
    """Three sets of rows: each triplet has a class of its own, and its own negative as the only one."""
    z = dict(np.load(path, allow_pickle=False))
    config = json.loads(str(z["config"]))
    sides = ["anchor", "positive", "negative"]
    a, p, n = (torch.from_numpy(z[side]).to(dtype).requires_grad_() for side in sides)
    rows = torch.arange(len(a))
    pairs = nearfar.Pairs.between(
        a, rows, torch.cat([p, n]), torch.cat([rows, rows - len(a)]), similarity="euclidean", backend=backend
    )
    terms = triplet_softmax(pairs.narrow(partners=rows + len(a)))
    assert terms.count.tolist() == [1.0] * len(a)
    value = config["loss_weight"] * terms.reduce("mean_terms")
    grads = [z[f"grad_{side}"] for side in sides]
    # At distance 0 the original's gradient is NaN; ours takes the subgradient 0 of that distance.
    lost = np.isnan(np.stack(grads)).any((0, 2))
    assert lost.any() == config["has_nan"]
    found = torch.autograd.grad(value, [a, p, n])
    assert value.item() == pytest.approx(float(z["loss"]), rel=2e-6, abs=2e-6)
    for ours, whole in zip(found, grads, strict=True):
        theirs = whole[~lost]
        assert torch.isfinite(ours).all()
        assert np.abs(ours.numpy()[~lost] - theirs).max() <= 1e-5 * np.abs(theirs).max() + 1e-7


@cases("rank_hard")
@each_type_and_backend
def test_rank_hard_with_the_mask_given(path, dtype, backend):
    check_rank_hard(path, dtype, backend, given=True)


@cases("rank_hard", lambda config: config["deterministic"] and "ties" not in config["name"])
@each_type_and_backend
def test_rank_hard(path, dtype, backend):
    check_rank_hard(path, dtype, backend, given=False)


@cases("rank_hard", lambda config: config["deterministic"] and "ties" in config["name"])
def test_rank_hard_takes_the_first_of_equals(path):
    """As the definition does; a faster backend may take any of them."""
    check_rank_hard(path, torch.float64, "reference", given=False)


def check_rank_hard(path, dtype, backend, given):
    z, config, x, labels = load(path, dtype)
    pairs = nearfar.Pairs.within(x, labels, similarity="dot", backend=backend)
    # The layer knows one positive for each group of rows: the second row, for the first.
    kept = pairs.positives
    pairs = pairs.narrow(
        positives=(kept.anchor % config["pair_size"] == 0) & (kept.candidate == kept.anchor + 1)
    )
    if given:
        mask = torch.from_numpy(z["mask"]).bool()
        column = torch.arange(len(x)).expand_as(mask).masked_fill(~mask, -1)
        pairs = pairs.narrow(columns=column.sort(1, descending=True).values)
    terms = rank_hard(pairs, margin=config["margin"], negatives=config["neg_num"])
    assert terms.count.sum() == config["cnt"]
    check(terms.reduce("mean_terms"), z["loss"], [x], [z["grad"]])


def triplets(x, labels, anchor, positive, negative, backend):
    """Pairs with just these triplets, each with an anchor of its own: an original may draw a pair twice."""
    listed = Relevance(torch.stack([torch.arange(len(anchor)), positive], 1))
    # Both originals take the root of D² + 1e-8: one more dimension, in which anchors are 1e-4 away.
    away = torch.nn.functional.pad(x[anchor], (0, 1), value=1e-4), torch.nn.functional.pad(x, (0, 1))
    pairs = nearfar.Pairs.between(away[0], listed, away[1], similarity="euclidean", backend=backend)
    return pairs.narrow(partners=negative)


@cases("margin_loss")
@each_type_and_backend
def test_margin_of_research_ms_loss(path, dtype, backend):
    z, config, x, labels = load(path, dtype)
    a, p, n = torch.from_numpy(z["triplets"]).unbind(1)
    beta = torch.from_numpy(z["beta"]).to(dtype)
    settings = {"margin": config["margin"]}
    if beta.ndim:
        beta = beta[labels[a]]
    learned = not config["beta_constant"]
    beta.requires_grad_(learned)
    for count, field in [("both", "loss_sum_count"), ("either", "loss")]:
        pairs = triplets(x, labels, a, p, n, backend)
        terms = margin(pairs, beta=beta, count=count, **settings)
        value = terms.reduce("mean_active")
        assert value.item() == pytest.approx(float(z[field]), rel=2e-6, abs=2e-6)
    assert terms.active.sum() == config["pair_count_logical_or"]
    check(value, z["loss"], [x], [z["grad"]])


@cases("margin_mxnet")
@each_type_and_backend
def test_margin_of_its_authors(path, dtype, backend):
    z, config, x, labels = load(path, dtype)
    a, p, n = (torch.from_numpy(z[key]) for key in "apn")
    beta = torch.from_numpy(z["beta"]).to(dtype).requires_grad_()
    terms = margin(
        triplets(x, labels, a, p, n, backend), margin=config["margin"], beta=beta[labels[a]], nu=config["nu"]
    )
    check(terms.reduce("mean_active"), z["loss"], [x, beta], [z["grad"], z["grad_beta"]])


@cases("pml_losses")
@each_type_and_backend
def test_margin_of_pytorch_metric_learning(path, dtype, backend):
    z, _, x, labels = load(path, dtype)
    loss = nearfar.losses.create(
        "margin", similarity="euclidean", per="triplet", learn=False, backend=backend
    )
    check(loss(x, labels), z["loss_margin_all_triplets"], [x], [z["grad_margin_all_triplets"]])


def fastreid(config, **settings):
    """Settings that reproduce fast-reid: an anchor is its own positive, its sums have 1e-6 added."""
    settings |= {"margin": config["margin"], "soft": config["margin"] == 0}
    if config["hard_mining"]:
        settings |= {"mining": "hard", "self_positive": "alone"}
    else:
        settings |= {"self_positive": "always", "eps": 1e-6}
    return nearfar.losses.create(
        "triplet_weighted", similarity="cosine" if config["norm_feat"] else "euclidean", **settings
    )


pytestmark = pytest.mark.filterwarnings("ignore:this batch has no positive pair")


@every_backend
@cases("fastreid_triplet")
def test_fastreid(path, backend):
    """Its float32 self-distances are noise, so this compares with its float64."""
    z, config, x, labels = load(path, torch.float64)
    check(fastreid(config, backend=backend)(x, labels), z["loss_f64"], [x], [z["grad_f64"]])


@every_backend
@cases("fastreid_triplet", lambda config: config["hard_mining"] and "singletons" not in config["name"])
def test_triplet_equals_fastreid_with_hard_mining(path, backend):
    """Where every anchor has a positive: its own distance to itself is then never the largest."""
    z, config, x, labels = load(path, torch.float64)
    loss = nearfar.losses.create(
        "triplet",
        mining="hard",
        reduction="mean",
        margin=config["margin"],
        soft=config["margin"] == 0,
        similarity="squared_euclidean" if config["norm_feat"] else "euclidean",
        backend=backend,
    )
    value = loss(normalize(x, dim=1) if config["norm_feat"] else x, labels)
    check(value, z["loss_f64"], [x], [z["grad_f64"]])
