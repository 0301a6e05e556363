"""The ranking losses: each against its definition, by hand, and for classes of any size."""

import math

import pytest
import torch
from torch import Tensor

import nearfar
import ranking_losses_oracle as oracle
from nearfar.errors import NearfarError
from nearfar.losses.parts import ranks
from problems import BACKENDS, batch
from turns import in_turns

PER_ANCHOR = {
    "smooth_ap": [{}, {"temperature": 0.1}, {"with_self": True, "temperature": 0.05}],
    "recall_at_k": [
        {},
        {"ks": (1, 3), "temperature": 0.1, "rank_temperature": 0.5},
        {"out_of": "reachable"},
        {"out_of": "reachable", "rank_temperature": 0.1, "ks": (1, 2)},
        {"with_self": True, "temperature": 0.1},
    ],
    "roadmap": [
        {},
        {"offset": 1.44},
        {"step": 0.0, "offset": 1.0},
        {"calibration": 0.0, "temperature": 0.1, "slope": 3.0, "bend": 0.2},
        {"calibration": 1.0},
        {"bend": 0.0},
    ],
    "fast_ap": [{}, {"bins": 1}, {"bins": 3}, {"bins": 50}],
}
CASES = [(name, settings) for name, variants in PER_ANCHOR.items() for settings in variants]
BINNED = ["fast_ap", "histogram"]
RANKING = [*PER_ANCHOR, "histogram"]


def unequal() -> tuple[Tensor, Tensor]:
    """Classes of 5, 3, 2 and 1, in no order."""
    x, _ = batch(4, 3, 5, spread=0.9)
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 0, 3, 1, 2, 0])
    return x[:11].requires_grad_(), labels


def small() -> tuple[Tensor, Tensor]:
    """Classes of 3, 2 and 1 in three dimensions, in no order: what is asked for once for each number."""
    x, _ = batch(3, 2, 3, spread=0.9)
    return x.requires_grad_(), torch.tensor([0, 1, 0, 2, 1, 0])


def same(value: Tensor, expected: Tensor, x: Tensor) -> None:
    """Compare values, and gradients of a weighted sum of them."""
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64).view(value.shape)
    (grad,) = torch.autograd.grad((value * upstream).sum(), x)
    (expected_grad,) = torch.autograd.grad((expected * upstream).sum(), x, retain_graph=True)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_equals_definition(name, settings):
    x, labels = unequal()
    for measure in ["cosine"] if name in BINNED or settings else ["cosine", "dot", "squared_euclidean"]:
        expected = getattr(oracle, name)(x, labels, measure, **settings)
        for backend in BACKENDS:
            how = {"backend": backend, "similarity": measure, "reduction": "none"}
            same(nearfar.losses.create(name, **how, **settings)(x, labels), expected, x)


@pytest.mark.parametrize("bins", [1, 7, 100])
def test_histogram_equals_definition(bins):
    x, labels = unequal() if bins < 100 else small()
    expected = oracle.histogram(x, labels, bins=bins)
    for backend in BACKENDS:
        same(nearfar.losses.create("histogram", bins=bins, backend=backend)(x, labels), expected, x)


@in_turns(2, backend=["dense", "tiled"], name=RANKING)
def test_gradcheck(name, backend):
    x, labels = small()
    loss = nearfar.losses.create(name, backend=backend)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), x, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", PER_ANCHOR)
def test_double_backward(name):
    x, labels = small()
    soft = {"temperature": 0.1} if name in ("smooth_ap", "recall_at_k") else {}
    loss = nearfar.losses.create(name, backend="dense", reduction="none", **soft)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, labels), x, eps=1e-7, atol=1e-3)


@pytest.mark.parametrize("name", ["smooth_ap", "recall_at_k"])
@pytest.mark.parametrize("most", [1, 4, 30])
def test_positives_taken_some_at_a_time(name, most, monkeypatch):
    """Some anchors at a time, down to some of the positives of one."""
    x, labels = unequal()
    loss = nearfar.losses.create(name, reduction="none")
    whole = loss(x, labels)
    monkeypatch.setattr(ranks, "ELEMENTS", most)
    same(loss(x, labels), whole, x)


def on_a_line(order: str) -> tuple[Tensor, Tensor]:
    """An anchor, then positives and negatives at falling similarities 0.9, 0.8, ...: "+-+" and such."""
    s = torch.arange(9, 9 - len(order), -1, dtype=torch.float64) / 10
    candidates = torch.stack([s, (1 - s**2).sqrt()], 1)
    return candidates, torch.tensor([0 if c == "+" else 1 for c in order])


def of_anchor(name: str, order: str, **settings: object) -> float:
    candidates, labels = on_a_line(order)
    loss = nearfar.losses.create(name, **settings)
    anchor = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    return loss(anchor, torch.tensor([0]), candidates, labels).item()


def test_smooth_ap_by_hand():
    # Ranks 1 and 3 of two positives: AP = (1/1 + 2/3) / 2; steps of 0.1 are 20 temperatures.
    assert of_anchor("smooth_ap", "+-+", temperature=0.005) == pytest.approx(1 - 5 / 6, abs=1e-8)
    # With a temperature of a step: one positive, one negative ahead of it, σ(1).
    ahead = 1 / (1 + math.exp(-1))
    assert of_anchor("smooth_ap", "-+", temperature=0.1) == pytest.approx(ahead / (1 + ahead))


def test_recall_by_hand():
    # Ranks 1 and 3: σ(1 - 1) and σ(1 - 3) for k = 1; σ(1) and σ(-1) for k = 2, which add up to 1.
    lost = [1 - (0.5 + 1 / (1 + math.exp(2))) / 2, 0.5]
    value = of_anchor("recall_at_k", "+-+", temperature=0.002, ks=(1, 2))
    assert value == pytest.approx(sum(lost) / 2, abs=1e-9)
    value = of_anchor("recall_at_k", "+-+", temperature=0.002, ks=(1,), out_of="reachable")
    assert value == pytest.approx(1 - (0.5 + 1 / (1 + math.exp(2))), abs=1e-9)


def test_roadmap_by_hand():
    # One negative 0.1 ahead of the one positive, at 0.9 and 0.8: H⁻ = 100 (0.1 - 0.05) + σ(5) + 1/2.
    ahead = 5.5 + 1 / (1 + math.exp(-5))
    assert of_anchor("roadmap", "-+", calibration=0.0) == pytest.approx(ahead / (1 + ahead))
    assert of_anchor("roadmap", "-+", calibration=0.0, offset=1.44) == pytest.approx(6.44 / 7.44)
    assert of_anchor("roadmap", "-+", calibration=1.0) == pytest.approx((0.9 - 0.8) + (0.9 - 0.6))


def test_fast_ap_by_hand():
    # D² = 0.2 and 0.4, bins 2 wide: the negative, nearer, lies 0.9 in the first, the positive 0.8.
    # H⁺/H is 0.8 / 1.7 in the first bin, 1/2 after the second: 1 - (0.8 x 0.8 / 1.7 + 0.2 / 2).
    assert of_anchor("fast_ap", "-+", bins=2) == pytest.approx(0.9 - 0.64 / 1.7)


def test_histogram_by_hand():
    # Nodes -1, 0, 1. A positive at 0.8: 0.2 at node 0 and 0.8 at node 1; a negative at 0.9: 0.1 and 0.9.
    assert of_anchor("histogram", "-+", bins=2) == pytest.approx(0.1 * 0.2 + 0.9 * 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_small_temperatures_give_the_average_precision(seed):
    x, labels = batch(5, 4, 8, spread=1.2, seed=seed)
    labels[:3] = 0
    s = x @ x.T
    exact = []
    for i in range(len(x)):
        others = torch.tensor([j for j in range(len(x)) if j != i])
        hit = (labels[others] == labels[i])[s[i, others].argsort(descending=True)]
        precision = hit.cumsum(0) / torch.arange(1, len(hit) + 1)
        exact.append(precision[hit].mean().double())
    expected = (1 - torch.stack(exact)).nanmean().item()
    smooth = nearfar.losses.create("smooth_ap", temperature=1e-6)(x, labels)
    assert smooth.item() == pytest.approx(expected, abs=1e-3)
    bound = nearfar.losses.create("roadmap", calibration=0.0)(x, labels)
    assert bound.item() >= expected


@pytest.mark.filterwarnings("ignore:this batch has no positive pair")
@in_turns(3, backend=BACKENDS, name=RANKING)
def test_nothing_to_compare(name, backend):
    """No positive, no negative, one row, none: 0 and gradient 0."""
    for labels in ([0, 1, 2, 3], [0, 0, 0, 0], [0], []):
        x = batch(4, 1, 5)[0][: len(labels)].requires_grad_()
        settings = {"calibration": 0.0} if name == "roadmap" else {}
        if name == "recall_at_k":
            settings = {"out_of": "reachable", "rank_temperature": 1e-3, "ks": (8,)}
        value = nearfar.losses.create(name, backend=backend, **settings)(
            x, torch.tensor(labels, dtype=torch.long)
        )
        (grad,) = torch.autograd.grad(value, x)
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert torch.equal(grad, torch.zeros_like(grad))


@in_turns(3, backend=BACKENDS, name=RANKING, kind=["one vector", "opposite", "zeros"])
def test_vectors_alike(name, backend, kind):
    """Equal similarities everywhere, at either end of the scale, or of no direction: finite."""
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    x = {"one vector": torch.ones(6), "opposite": sign, "zeros": torch.zeros(6)}[kind]
    x = x[:, None].expand(6, 3).clone().requires_grad_()
    for settings in PER_ANCHOR.get(name, [{}]):
        value = nearfar.losses.create(name, backend=backend, **settings)(x, torch.tensor([0, 0, 1, 1, 2, 3]))
        (grad,) = torch.autograd.grad(value, x)
        assert value.isfinite()
        assert grad.isfinite().all()


def test_a_loss_near_0_keeps_its_digits_in_float32():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.8, 0.6]])
    value = nearfar.losses.create("smooth_ap", temperature=0.01, reduction="sum")(x, torch.tensor([0, 0, 1]))
    assert value.item() == pytest.approx(2 * math.exp(-20), rel=1e-4)


def test_anchors_without_positives_are_left_out_of_the_mean():
    x, labels = unequal()
    for name in PER_ANCHOR:
        each = nearfar.losses.create(name, reduction="none")(x, labels)
        assert each[7] == 0
        mean = nearfar.losses.create(name)(x, labels)
        torch.testing.assert_close(mean, each.sum() / 10)


def test_histogram_counts_terms():
    """Negative pairs, and those of them that are above some positive: 1 is above 0, -1 is not."""
    candidates, labels = on_a_line("-+-------")
    loss = nearfar.losses.create("histogram", bins=2)
    loss(torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0]), candidates, labels)
    assert loss.last.terms.count.tolist() == [8]
    assert loss.last.terms.active.tolist() == [8]
    # On a node in any arithmetic: at 1, 0 (the positive) and -1.
    candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    loss = nearfar.losses.create("histogram", bins=20)
    loss(
        torch.tensor([[1.0, 0.0]], dtype=torch.float64),
        torch.tensor([0]),
        candidates,
        torch.tensor([1, 0, 1]),
    )
    assert loss.last.terms.active.tolist() == [1]


def test_histogram_of_repeated_batches_is_the_same():
    """Shares, not sums: every pair twice changes nothing."""
    x, labels = unequal()
    loss = nearfar.losses.create("histogram")
    once = loss(x, labels, x.detach(), labels)
    twice = loss(torch.cat([x, x]), torch.cat([labels, labels]), x.detach(), labels)
    torch.testing.assert_close(once, twice)


def test_memory_of_a_large_class():
    """300 x 299 positives, each with 1,200 negatives and 298 other positives: 530 MB a matrix of them."""
    resource = pytest.importorskip("resource")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1500, 8, generator=generator).requires_grad_()
    labels = torch.cat([torch.zeros(300), torch.arange(1, 601).repeat_interleave(2)]).long()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    nearfar.losses.create("smooth_ap")(x, labels).backward()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 120_000  # kB


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("smooth_ap", {"temperature": 0.0}, "temperature must be positive"),
        ("recall_at_k", {"temperature": 0.0}, "temperatures must be positive"),
        ("recall_at_k", {"rank_temperature": -1.0}, "temperatures must be positive"),
        ("recall_at_k", {"ks": ()}, "ks must be whole numbers from 1 on"),
        ("recall_at_k", {"ks": (0, 1)}, "ks must be whole numbers from 1 on"),
        ("recall_at_k", {"ks": 4}, "ks of the loss 'recall_at_k' must be a list of whole numbers; got 4"),
        ("roadmap", {"temperature": 0.0}, "temperature must be positive"),
        ("roadmap", {"slope": -1.0}, "slope and bend must not be negative"),
        ("roadmap", {"bend": -1.0}, "slope and bend must not be negative"),
        ("roadmap", {"calibration": 2.0}, "calibration must lie between 0 and 1"),
        ("fast_ap", {"bins": 0}, "bins must be at least 1"),
        ("histogram", {"bins": 0}, "bins must be at least 1"),
    ],
)
def test_settings_out_of_range(name, settings, sentence):
    x, labels = unequal()
    with pytest.raises(NearfarError, match=sentence):
        nearfar.losses.create(name, **settings)(x, labels)
