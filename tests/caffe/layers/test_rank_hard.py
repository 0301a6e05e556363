"""RankHardLoss against the original's outputs, and the rule by which it chooses."""

import json

import numpy as np
import pytest
import torch

from nearfar.caffe.layers import RankHardLoss
from nearfar.errors import NearfarError
from problems import batch, golden_folder

CASES = sorted((golden_folder / "losses" / "rank_hard").glob("*.npz"))
every_case = pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def load(path, dtype=torch.float32):
    case = dict(np.load(path))
    config = json.loads(str(case["config"]))
    x = torch.tensor(case["embeddings"], dtype=dtype, requires_grad=True)
    names = ("neg_num", "pair_size", "hard_ratio", "rand_ratio", "margin")
    return case, config, RankHardLoss(**{name: config[name] for name in names}, parity=True), x


def check(case, config, value, x):
    (gradient,) = torch.autograd.grad(config["loss_weight"] * value, x)
    assert value.item() == pytest.approx(float(case["loss"]), rel=2e-6, abs=2e-6)
    expected = case["grad"]
    assert np.abs(gradient.numpy() - expected).max() <= 1e-5 * np.abs(expected).max() + 1e-7


@every_case
@both_types
def test_parity_with_the_mask_given(path, dtype):
    case, config, layer, x = load(path, dtype)
    check(case, config, layer(x, torch.tensor(case["labels"]), torch.tensor(case["mask"])), x)


@every_case
@both_types
def test_parity_of_the_choice(path, dtype):
    case, config, layer, x = load(path, dtype)
    labels = torch.tensor(case["labels"])
    mask, candidates = layer.selected(x, labels).numpy(), case["candidates"].astype(bool)
    unset = config["hard_ratio"] == config["rand_ratio"] == 0
    if config["deterministic"] or unset:
        assert (mask == case["mask"].astype(bool)).all()
        check(case, config, layer(x, labels), x)
        return
    obeys(mask, candidates, case["similarity"], config)
    assert (mask.sum(1) == case["mask"].sum(1)).all()


def obeys(mask, candidates, similarity, config):
    """Whether a choice follows the rule: all of a few; else so many of the hardest, the others from anywhere."""
    assert not (mask & ~candidates).any()
    k = config["neg_num"]
    hard, others = int(k * config["hard_ratio"]), int(k * config["rand_ratio"])
    for row in range(0, len(mask), config["pair_size"]):
        found = np.flatnonzero(candidates[row])
        if len(found) <= k:
            assert mask[row].sum() == len(found)
            continue
        hardest = found[np.argsort(-similarity[row, found], kind="stable")][:k]
        assert mask[row, hardest].sum() >= hard
        assert mask[row].sum() == hard + min(others, len(found) - hard)


@pytest.mark.parametrize("seed", range(8))
def test_of_equals_the_first_are_taken(seed):
    """Rows on a coarse grid: most similarities are tied, so the order of rows decides."""
    random = np.random.default_rng(seed)
    x = torch.tensor(random.integers(-1, 2, size=(32, 3)), dtype=torch.float32)
    labels = torch.arange(16).repeat_interleave(2)
    mask = RankHardLoss(5, 2, 1.0, 0.0, margin=1.0).selected(x, labels).numpy()
    s = (x @ x.T).numpy()
    for row in range(0, 32, 2):
        violators = np.flatnonzero((labels != labels[row]).numpy() & (s[row] > s[row, row + 1] - 1))
        expected = violators[np.argsort(-s[row, violators], kind="stable")][:5]
        assert np.flatnonzero(mask[row]).tolist() == sorted(expected.tolist())


def test_of_equals_the_first_are_taken_in_a_large_batch():
    """The tiled backend sorts rows by class, and classes come more than once."""
    random = np.random.default_rng(0)
    x = torch.tensor(random.integers(-1, 2, size=(640, 3)), dtype=torch.float32)
    labels = torch.tensor(random.integers(0, 80, size=320)).repeat_interleave(2)
    mask = RankHardLoss(5, 2, 1.0, 0.0, margin=1.0).selected(x, labels)
    s = x @ x.T
    for row in range(0, 640, 2):
        violators = (labels != labels[row]) & (s[row] > s[row, row + 1] - 1)
        order = s[row].masked_fill(~violators, -torch.inf).sort(descending=True, stable=True).indices
        assert mask[row].nonzero().squeeze(1).tolist() == sorted(
            order[: min(5, int(violators.sum()))].tolist()
        )


def test_random_choices_are_spread_evenly():
    """One of four hard and one other: each hard one in 1 of 4 draws, each other one in 1 of 7."""
    angle = torch.linspace(0.1, 1.0, 8)
    x = torch.stack([torch.ones(10), torch.zeros(10)], 1)
    x[2:] = torch.stack([angle.cos(), angle.sin()], 1)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    layer = RankHardLoss(4, 2, 0.25, 0.25, margin=1.0)
    torch.manual_seed(0)
    counts = sum(layer.selected(x, labels)[0].float() for _ in range(700)) / 700
    hard, other = 1 / 4 + 3 / 4 / 7, 1 / 7
    assert counts[2:].tolist() == pytest.approx([hard] * 4 + [other] * 4, abs=0.06)
    assert not counts[:2].any()


def test_weight_of_the_loss():
    """The original takes it as 1; by default it counts."""
    x, labels = batch(4, 2, 6, seed=1)
    order = labels.argsort()
    x, labels = x[order].requires_grad_(), labels[order]
    for parity, factor in ((False, 3.0), (True, 1.0)):
        layer = RankHardLoss(2, 2, 1.0, margin=1.0, parity=parity)
        plain, weighted = (torch.autograd.grad(w * layer(x, labels), x)[0] for w in (1.0, 3.0))
        assert plain.any()
        torch.testing.assert_close(weighted, factor * plain)


def test_gradient():
    x, labels = batch(5, 2, 6, seed=2)
    order = labels.argsort()
    layer = RankHardLoss(3, 2, 1.0, margin=1.0)
    assert torch.autograd.gradcheck(lambda x: layer(x, labels[order]), x[order].requires_grad_())


def test_similarities_are_not_computed_in_half_precision():
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(40, 64, generator=generator))
    labels = torch.arange(40) // 2
    layer = RankHardLoss(neg_num=4)
    expected, chosen = layer(x, labels), layer.selected(x, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x, labels) == expected
        assert torch.equal(layer.selected(x, labels), chosen)


def test_ratios_that_are_not_set():
    x, labels = batch(5, 2, 6, seed=2)
    order = labels.argsort()
    x, labels = x[order], labels[order]
    hardest = RankHardLoss(3, 2, 1.0, 0.0, margin=1.0)
    assert (RankHardLoss(3, margin=1.0).selected(x, labels) == hardest.selected(x, labels)).all()
    assert not RankHardLoss(3, margin=4.0, parity=True).selected(x, labels).any()


def test_one_group_has_no_negatives():
    x = torch.randn(2, 3, requires_grad=True)
    value = RankHardLoss(2, 2, 0.5, 0.5)(x, torch.zeros(2))
    value.backward()
    assert value.item() == 0
    assert not x.grad.any()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("parity", [False, True])
def test_a_number_that_is_not_finite(wrong, parity):
    """Also in a row that no hinge reaches."""
    for margin in (0.0, 1.0):
        x = torch.nn.functional.one_hot(torch.arange(8) // 2).float()
        x[5, 1] = wrong
        x.requires_grad_()
        layer = RankHardLoss(2, 2, 0.5, 0.5, margin=margin, parity=parity)
        value = layer(x, torch.arange(8) // 2)
        (gradient,) = torch.autograd.grad(value, x)
        assert value.isnan()
        assert gradient.isnan().all()
        layer.selected(x, torch.arange(8) // 2)


def test_what_is_refused():
    for settings, sentence in [
        ({"neg_num": 0}, "neg_num of 1 or more; got 0"),
        ({"pair_size": 1}, "pair_size must be 2 or more; got 1"),
        ({"hard_ratio": 1.5}, r"in \[0, 1\]; got 1.5 and 0.0"),
    ]:
        with pytest.raises(NearfarError, match=sentence):
            RankHardLoss(**settings)
    layer = RankHardLoss()
    with pytest.raises(NearfarError, match="5 rows, which is no multiple of pair_size = 2"):
        layer(torch.ones(5, 2), torch.zeros(5))
    with pytest.raises(NearfarError, match="row 3 is the positive of row 2, but their labels differ"):
        layer(torch.ones(4, 2), torch.tensor([0, 0, 1, 2]))
    with pytest.raises(NearfarError, match=r"mask of shape \[4, 4\]; got \[2, 4\]"):
        layer(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]), torch.ones(2, 4))
