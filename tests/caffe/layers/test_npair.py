"""The N-pair layer against the original's outputs, its definition, and what its default promises."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from nearfar.caffe.layers import NPairMultiClassLoss
from nearfar.errors import NearfarError
from npair_oracle import METHODS, REGIONS, TOPS, has_digits, layer, problem, settings_of
from problems import BACKENDS, batch, golden_folder
from turns import in_turns

CASES = sorted((golden_folder / "losses" / "npair").glob("*.npz"))

TYPES = {"float32": torch.float32, "float64": torch.float64}


@in_turns(2, backend=BACKENDS, path={path.stem: path for path in CASES}, dtype=TYPES)
def test_parity(path, dtype, backend):
    case = np.load(path)
    config = json.loads(str(case["config"]))
    n, labels = config["N"], torch.tensor(case["labels"])
    mask = np.unpackbits(case["selected_bits"], axis=1)[:, : n * n].reshape(-1, n, n).astype(bool)
    every = 10 if backend == "dense" else 20
    for row in range(0, len(case["params"]), every):
        settings = settings_of(case["params"][row], config)
        npair = NPairMultiClassLoss(**asdict(settings), parity=True, backend=backend)
        x = torch.tensor(case["embeddings"]).to(dtype).requires_grad_()
        tops = npair(x, labels)
        (gradient,) = torch.autograd.grad(config["loss_weight"] * tops["loss"], x)
        assert list(tops) == TOPS
        assert (npair.selected(x, labels).numpy() == mask[row]).all(), settings
        assert tops["loss"].item() == pytest.approx(float(case["loss"][row]), rel=2e-6, abs=2e-6)
        expected = case["grad"][row]
        assert np.abs(gradient.numpy() - expected).max() <= 1e-5 * np.abs(expected).max() + 1e-7
        retrieval = [tops[name].item() for name in TOPS[1:4]]
        assert retrieval == pytest.approx(case["retrieval"][row].tolist(), abs=1e-6)
        assert tops["feature_asum"].item() == pytest.approx(float(case["feature_asum"]), rel=1e-6)


@in_turns(2, parity={"parity": True, "default": False}, backend=["dense", "tiled"], part=range(4))
def test_definition(part, backend, parity):
    compared = 0
    for seed in range(25 * part, 25 * part + 25):
        rows, labels, settings = problem(seed)
        (expected,) = layer([rows], [labels], settings, parity)
        if not has_digits(expected):
            continue
        compared += 1
        npair = NPairMultiClassLoss(**asdict(settings), parity=parity, backend=backend)
        x, y = torch.tensor(rows).requires_grad_(), torch.tensor(labels)
        tops = npair(x, y)
        (gradient,) = torch.autograd.grad(tops["loss"], x)
        assert (npair.selected(x, y).numpy() == expected.selected).all(), (seed, settings)
        assert tops["loss"].item() == pytest.approx(expected.loss, rel=1e-5, abs=2e-6), (seed, settings)
        assert [tops[name].item() for name in TOPS[1:4]] == pytest.approx(expected.retrieval), (
            seed,
            settings,
        )
        assert tops["feature_asum"].item() == pytest.approx(expected.asum, rel=1e-6)
        scale = np.abs(expected.grad).max() + 1e-3 * np.abs(rows).max()
        assert np.abs(gradient.numpy() - expected.grad).max() <= 2e-5 * scale, (seed, settings)
    assert compared > 15


@in_turns(2, method=METHODS, region=REGIONS)
def test_default_gives_the_gradient_of_its_loss(method, region):
    """Without parity: at thresholds that a small step does not move past a pair."""
    x, labels = batch(4, 3, 6, seed=3)
    npair = NPairMultiClassLoss(
        margin_ident=0.01,
        margin_diff=-0.01,
        identsn=-0.5,
        diffsn=3,
        ap_mining_method=method,
        an_mining_method=method,
        ap_mining_region=region,
        an_mining_region=region,
    )
    assert torch.autograd.gradcheck(
        lambda x: npair(x, labels)["loss"], x.requires_grad_(), eps=1e-7, atol=1e-5
    )


def test_by_hand():
    """Two classes on two axes: S is 1 within a class and 0 across, so f = log(1 + 2/e) for every query."""
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    tops = NPairMultiClassLoss()(x, torch.tensor([5, 5, 9, 9]))
    assert tops["loss"].item() == pytest.approx(np.log(1 + 2 / np.e))
    assert [tops[name].item() for name in TOPS[1:]] == [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("number", "kept"), [(2, 2), (3, 3), (-0.5, 5), (-0.3, 3), (-1.0, 10), (-1.5, 10), (0, 1), (40, 10)]
)
def test_default_keeps_as_many_as_it_is_told(number, kept):
    x, labels = batch(6, 2, 16, seed=5)
    npair = NPairMultiClassLoss(diffsn=number, an_mining_method="RELATIVE_HARD")
    chosen = npair.selected(x, labels) & (labels[:, None] != labels)
    assert (chosen.sum(1) == kept).all()
    original = NPairMultiClassLoss(diffsn=number, an_mining_method="RELATIVE_HARD", parity=True)
    more = original.selected(x, labels) & (labels[:, None] != labels)
    assert (more & chosen == chosen).all()  # one more, or all where the threshold is below 0


def test_zero_is_the_most_similar_pair_of_all():
    """The published settings: identsn -0.0 keeps every positive, in both modes."""
    x, labels = batch(5, 3, 8, seed=6)
    for parity in (False, True):
        npair = NPairMultiClassLoss(
            identsn=-0.0,
            ap_mining_region="GLOBAL",
            ap_mining_method="RELATIVE_HARD",
            an_mining_method="HARD",
            margin_diff=-0.05,
            parity=parity,
        )
        same = (labels[:, None] == labels) & ~torch.eye(15, dtype=torch.bool)
        assert (npair.selected(x, labels)[same]).all()


def test_parity_halves_the_gradient():
    x, labels = batch(4, 3, 6)
    gradients = []
    for parity in (False, True):
        leaf = x.clone().requires_grad_()
        NPairMultiClassLoss(parity=parity)(leaf, labels)["loss"].backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0] / 2)


def test_parity_lets_orphans_push():
    x = torch.eye(4)[:3].requires_grad_()
    for parity in (False, True):
        loss = NPairMultiClassLoss(parity=parity)(x, torch.arange(3))["loss"]
        (gradient,) = torch.autograd.grad(loss, x)
        assert loss.item() == 0
        assert bool(gradient.any()) == parity


def test_labels_of_parity_are_single_precision():
    x, _ = batch(2, 2, 4)
    labels = torch.tensor([2**24, 2**24 + 1, 7, 8])
    assert NPairMultiClassLoss().selected(x, labels).sum() == 12
    hard = {"ap_mining_method": "RELATIVE_HARD", "identsn": 0}
    counts = []
    for parity in (False, True):
        npair = NPairMultiClassLoss(**hard, parity=parity)
        counts.append(npair(x, labels)["loss"].item() != 0)
    assert counts == [False, True]


def test_labels_may_be_blobs():
    x, labels = batch(4, 3, 6)
    expected = NPairMultiClassLoss()(x, labels)["loss"]
    assert NPairMultiClassLoss()(x[:, :, None, None], labels.float().view(-1, 1, 1, 1))["loss"] == expected


@pytest.mark.parametrize("tops", range(1, 6))
def test_fewer_tops(tops):
    x, labels = batch(4, 3, 6)
    x.requires_grad_()
    whole = NPairMultiClassLoss(parity=True)(x, labels)
    part = NPairMultiClassLoss(parity=True, tops=tops)(x, labels)
    names = ["loss"] if tops == 1 else [*TOPS[: tops - 1], "feature_asum"]
    assert list(part) == names
    if tops == 1:  # the value is overwritten, the gradient is not
        assert part["loss"] == whole["feature_asum"]
        found, expected = (torch.autograd.grad(t["loss"], x)[0] for t in (part, whole))
        torch.testing.assert_close(found, expected)
        assert NPairMultiClassLoss(tops=1)(x, labels)["loss"] == NPairMultiClassLoss()(x, labels)["loss"]
    else:
        assert all(part[name] == whole[name] for name in names)


def test_retrieval_counts_ties_as_each_mode_says():
    """Three equal rows of one class: its two positives tie with each other."""
    x = torch.ones(3, 2)
    labels = torch.zeros(3).long()
    assert NPairMultiClassLoss()(x, labels)["retrieval_top1"] == 1
    assert NPairMultiClassLoss(parity=True)(x, labels)["retrieval_top1"] == 0


@in_turns(2, backend=BACKENDS, parity=[True, False], n=[1, 2, 7])
def test_edges_are_finite(n, parity, backend):
    for labels in (torch.zeros(n).long(), torch.arange(n)):
        for method in METHODS:
            x = torch.randn(n, 3, generator=torch.Generator().manual_seed(n)).requires_grad_()
            settings = {"ap_mining_method": method, "an_mining_method": method}
            tops = NPairMultiClassLoss(**settings, parity=parity, backend=backend)(x, labels)
            (gradient,) = torch.autograd.grad(tops["loss"], x)
            assert gradient.isfinite().all()
            assert all(top.isfinite() for top in tops.values())


@in_turns(2, method=METHODS, parity=[True, False], backend=BACKENDS)
def test_features_that_are_no_numbers_show_in_the_loss(backend, parity, method):
    """Even where nothing can be selected, because a threshold is no number."""
    x, labels = batch(4, 3, 6)
    npair = NPairMultiClassLoss(
        ap_mining_method=method, an_mining_method=method, parity=parity, backend=backend
    )
    for wrong in (torch.nan, torch.inf):
        x = batch(4, 3, 6)[0]
        x[5, 2] = wrong
        x.requires_grad_()
        *tops, asum = npair(x, labels).values()
        assert all(top.isnan() for top in tops)
        assert not asum.isfinite()
        (gradient,) = torch.autograd.grad(tops[0], x)
        assert gradient.isnan().all()
        with torch.no_grad():
            npair.selected(x, labels)


@pytest.mark.parametrize(
    ("second", "parity", "first_loss"), [(0.5, True, 95), (-1, True, 0), (-1, False, 110)]
)
def test_exponentials_end_where_single_precision_does(second, parity, first_loss):
    """The positive of row 0 lies 95 or 110 below its negative: exp(-95) is still there, exp(-110) is not."""
    x = torch.tensor([[10.0], [second], [10.0]])
    loss = NPairMultiClassLoss(parity=parity)(x, torch.tensor([0, 0, 1]))["loss"]
    assert loss.item() == pytest.approx((first_loss + np.log(2)) / 3, rel=1e-5)


def test_exponentials_that_single_precision_makes_equal():
    """exp(-103) and exp(-103.2) are both 2^-149: the negative of row 0 at -3.2 ties with its positive at -3."""
    x = torch.tensor([[10.0], [-0.3], [10.0], [10.0], [10.0], [10.0], [-0.32], [-0.5]])
    labels = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6])
    assert NPairMultiClassLoss(parity=True)(x, labels)["retrieval_top5"] == 0
    assert NPairMultiClassLoss()(x, labels)["retrieval_top5"] == 1 / 8


def test_similarities_are_not_computed_in_half_precision():
    x, labels = batch(4, 3, 6)
    layer = NPairMultiClassLoss(an_mining_method="HARD", margin_diff=-0.05)
    expected, chosen = layer(x, labels)["loss"], layer.selected(x, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x, labels)["loss"] == expected
        assert torch.equal(layer.selected(x, labels), chosen)


def test_an_empty_batch_gives_zeros():
    for parity in (True, False):
        tops = NPairMultiClassLoss(parity=parity)(torch.zeros(0, 3), torch.zeros(0))
        assert all(top == 0 for top in tops.values())


def test_tops_have_the_type_of_the_features():
    x, labels = batch(4, 3, 6)
    for dtype in (torch.float32, torch.float64):
        for parity in (True, False):
            tops = NPairMultiClassLoss(parity=parity)(x.to(dtype), labels)
            assert {top.dtype for top in tops.values()} == {dtype}


def test_half_precision_is_computed_in_single():
    x, labels = batch(4, 3, 6)
    half = x.bfloat16().requires_grad_()
    loss = NPairMultiClassLoss()(half, labels)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ap_mining_method": "HARDD"}, "ap_mining_method 'HARDD' is not one of .* Did you mean 'HARD'"),
        ({"an_mining_region": "ALL"}, "an_mining_region 'ALL' is not one of GLOBAL, LOCAL"),
        ({"an_mining_method": "easy"}, "Did you mean 'EASY'"),
        ({"tops": 6}, "1 to 5 tops; got tops=6"),
        ({"identsn": float("nan"), "ap_mining_method": "RELATIVE_HARD"}, "identsn must be a finite number"),
        ({"diffsn": float("inf"), "parity": True}, "diffsn must be a finite number below .*; got inf"),
        ({"margin_diff": -float("inf")}, "margin_diff must be a finite number below .*; got -inf"),
    ],
)
def test_settings_that_are_refused(settings, sentence):
    with pytest.raises(NearfarError, match=sentence):
        NPairMultiClassLoss(**settings)


@pytest.mark.parametrize(
    ("x", "labels", "sentence"),
    [
        (torch.ones(3), torch.ones(3), "takes features"),
        (torch.ones(3, 2).long(), torch.ones(3), "in floating point"),
        (torch.ones(3, 2), torch.ones(4), "3 rows of features but 4 labels"),
        (torch.ones(3, 2), torch.tensor([1.0, 1.5, 2.0]), "whole numbers as labels; got 1.5"),
    ],
)
def test_bottoms_that_are_refused(x, labels, sentence):
    with pytest.raises(NearfarError, match=sentence):
        NPairMultiClassLoss()(x, labels)
