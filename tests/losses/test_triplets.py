"""The triplet losses against their definitions, by hand, and at the edges."""

import math

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from torch.nn.functional import normalize

import nearfar
import triplet_oracle as oracle
from nearfar.errors import NearfarError
from problems import BACKENDS, batch
from turns import in_turns

MINING = [None, "hard", "semi_hard", "top_k"]
RULES = {"top_k": {"name": "top_k", "keep_negatives": 2}}
PAPERS = {
    "angular": "mean_terms",
    "margin": "mean_active",
    "quadruplet": "mean_active",
    "rank_hard": "mean_terms",
    "triplet": "mean_active",
    "triplet_softmax": "mean_terms",
    "triplet_weighted": "mean",
}
DISTANCE = ["margin", "triplet_softmax"]
LOSSES = sorted(PAPERS)
SETTINGS = [
    ("angular", {"alpha": 30.0}),
    ("margin", {"margin": 0.1, "beta": 0.9, "nu": 0.3}),
    ("margin", {"beta": 0.8, "per": "triplet"}),
    ("quadruplet", {"margin": 0.4, "second_margin": 0.3}),
    ("rank_hard", {"margin": 0.3, "negatives": 3}),
    ("rank_hard", {"margin": 2.0, "negatives": 100}),
    ("triplet_weighted", {"margin": 0.1, "soft": True}),
    ("triplet_weighted", {"eps": 1e-2}),
]
FEW = {
    "one class": [0, 0, 0, 0],
    "all distinct": [0, 1, 2, 3],
    "singletons": [0, 0, 1, 2],
    "two classes": [0, 0, 1, 1],
    "one row": [5],
    "no row": [],
    "one pair": [0, 0],
}
lone = pytest.mark.filterwarnings("ignore:this batch has no positive pair")


def asked(name, measure):
    """What the oracle compares when a loss is written on distances."""
    if name in DISTANCE:
        return "euclidean"
    return "squared_euclidean" if measure == "cosine" and name == "triplet_weighted" else measure


def compare(name, x, labels, mining, measure, backend, **settings):
    x = x.clone().requires_grad_()
    loss = nearfar.losses.create(
        name,
        mining=RULES.get(mining, mining),
        similarity=measure,
        backend=backend,
        reduction="none",
        learn=False,
        **settings,
    )
    unit = normalize(x, dim=1) if measure == "cosine" else x
    rows = oracle.batch(
        unit, labels, asked(name, measure), mining, settings.get("margin", loss.settings.get("margin", 0.2))
    )
    parts = list(zip(*(oracle.losses[name](rows, i, **settings) for i in range(len(x))), strict=True))
    ours, theirs = (
        loss(x, labels),
        torch.stack([sum(p.total for p in row) for row in zip(*parts, strict=True)]),
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    upstream = torch.linspace(0.5, 1.5, len(x), dtype=torch.float64)
    (grad,) = torch.autograd.grad(ours @ upstream, x, retain_graph=True)
    (expected,) = torch.autograd.grad(theirs @ upstream, x, retain_graph=True)
    torch.testing.assert_close(grad, expected, rtol=1e-8, atol=1e-9)
    if not settings.get("nu"):
        how = PAPERS[name]
        loss.reduction = how
        expected = sum(oracle.reduce(list(part), how) for part in parts)
        torch.testing.assert_close(loss(x, labels), expected, rtol=1e-9, atol=1e-10)


@in_turns(
    3,
    backend=BACKENDS,
    measure=["cosine", "dot", "euclidean", "squared_euclidean"],
    mining=MINING,
    name=LOSSES,
)
def test_equals_definition(name, mining, measure, backend):
    if name == "angular" and measure not in ("cosine", "dot"):
        return
    if name in DISTANCE and measure not in ("cosine", "euclidean"):
        return
    x, labels = batch(4, 3, 6, spread=0.8)
    labels[0] = 99  # a class of one
    compare(name, x * torch.linspace(0.5, 1.5, len(x))[:, None], labels, mining, measure, backend)


@in_turns(3, told=SETTINGS, mining=MINING, backend=BACKENDS)
def test_settings_equal_definition(told, mining, backend):
    name, settings = told
    x, labels = batch(5, 2, 4, spread=0.9, seed=2)
    labels[3] = labels[4]
    compare(name, x, labels, mining, "cosine", backend, **settings)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("mining", [None, "hard"])
def test_gradcheck(name, mining):
    x, labels = batch(3, 3, 5, spread=0.9, seed=3)
    loss = nearfar.losses.create(name, mining=mining, learn=False)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), x.requires_grad_(), eps=1e-7, atol=1e-5)


def hand() -> tuple[torch.Tensor, torch.Tensor]:
    """Four unit vectors at 0, 60, 90 and 180 degrees; the first two are one class, the others one each."""
    angle = torch.tensor([0.0, 60.0, 90.0, 180.0], dtype=torch.float64) * math.pi / 180
    return torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([0, 0, 1, 2])


def value(name, **settings):
    return nearfar.losses.create(name, **settings)(*hand())


D = {"01": 1.0, "02": math.sqrt(2), "03": 2.0, "12": 2 * math.sin(math.pi / 12), "13": math.sqrt(3)}


def test_margin_by_hand():
    # Positives at D = 1 are within 1.2 - 0.2. Of the negatives only 1-2, twice, is nearer than 1.4.
    near = 1.4 - D["12"]
    assert value("margin").item() == pytest.approx(near)
    assert value("margin", reduction="mean_terms").item() == pytest.approx(2 * near / (2 + 10))
    # Triplets: (0,1,2), (0,1,3), (1,0,2), (1,0,3); with beta 0.9 each has pull 0.3, and one a push as well.
    assert value("margin", beta=0.9, per="triplet").item() == pytest.approx((4 * 0.3 + 1.1 - D["12"]) / 5)
    either = value("margin", beta=0.9, per="triplet", count="either")
    assert either.item() == pytest.approx((4 * 0.3 + 1.1 - D["12"]) / 4)


def test_triplet_softmax_by_hand():
    near = [D["02"], D["03"], D["12"], D["13"]]
    expected = sum((1 / (1 + math.exp(d - 1))) ** 2 for d in near) / 4
    assert value("triplet_softmax").item() == pytest.approx(expected)


def test_triplet_weighted_by_hand():
    # Squared distances: to the positive 1; of 0 to the negatives 2 and 4, of 1 D² and 3.
    def side(a, b):
        return (a * math.exp(-a) + b * math.exp(-b)) / (math.exp(-a) + math.exp(-b))

    expected = [max(0, 1 - side(2, 4) + 0.3), max(0, 1 - side(D["12"] ** 2, 3) + 0.3), 0, 0]
    assert expected[1] > 0
    assert value("triplet_weighted", reduction="none").tolist() == pytest.approx(expected)
    assert value("triplet_weighted").item() == pytest.approx(sum(expected) / 4)


def test_rank_hard_by_hand():
    # Both ends of the pair 0-1 (s = 1/2) take 2 as the nearest: s_02 = 0, s_12 = √3/2; violators pass s > 0.
    s = math.sqrt(3) / 2
    assert value("rank_hard").item() == pytest.approx(2 * (s - 0.5 + 0.5) / 4 / 2)
    assert value("rank_hard", margin=0.75).item() == pytest.approx(2 * (0.25 + s + 0.25) / 4)


def test_angular_by_hand():
    # α = 45°: f = 4 (s_in + s_pn) - 4 s_ip, the same seen from both ends.
    f = [4 * math.sqrt(3) / 2 - 2, 4 * (-1 - 0.5) - 2]
    assert value("angular", alpha=45.0).item() == pytest.approx(math.log(1 + sum(map(math.exp, f))))


def test_quadruplet_by_hand():
    # Triplets of 0 and 1; the fourth of 2 is 3 and the other way round: s_23 = 0.
    s = math.sqrt(3) / 2
    first = s - 0.5 + 0.2
    assert value("quadruplet").item() == pytest.approx(first)
    second = [max(0.0, 0 - 0.5 + 0.7)] * 4
    assert value("quadruplet", second_margin=0.7).item() == pytest.approx(first + sum(second) / 4)


def test_beta_is_learned_for_each_class():
    x, labels = batch(4, 3, 6, spread=0.8)
    loss = nearfar.losses.create("margin", classes=4, beta=1.1, nu=0.05)
    value = loss(x, labels)
    value.backward()
    d = torch.cdist(x, x)
    same = (labels[:, None] == labels) & ~torch.eye(len(x), dtype=torch.bool)
    pulled, pushed = same & (d > 0.9), (labels[:, None] != labels) & (d < 1.3)
    change = [(pushed[labels == c].sum() - pulled[labels == c].sum() + 0.05 * 6) for c in range(4)]
    expected = torch.stack(change) / (pulled.sum() + pushed.sum())
    torch.testing.assert_close(loss.learned["beta"].grad, expected.float())


def test_beta_of_all_is_one_number():
    x, labels = batch(4, 3, 6, spread=0.8)
    loss = nearfar.losses.create("margin")
    loss(x, labels).backward()
    assert loss.learned["beta"].shape == (1,)
    assert loss.learned["beta"].grad != 0
    assert not nearfar.losses.create("margin", learn=False).learned


@lone
@in_turns(3, name=LOSSES, mining=[None, "hard", "semi_hard"], backend=BACKENDS, labels=FEW)
def test_missing(name, mining, backend, labels):
    x, _ = batch(4, 1, 5)
    x = x[: len(labels)].clone().requires_grad_()
    value = nearfar.losses.create(name, mining=mining, backend=backend)(
        x, torch.tensor(labels, dtype=torch.long)
    )
    (grad,) = torch.autograd.grad(value, x)
    assert torch.isfinite(value)
    assert torch.isfinite(grad).all()
    if len(set(labels)) in (0, 1, len(labels)) and name != "margin":
        # Without negatives or without positives there is no triplet; the margin loss has pairs all the same.
        assert value == 0


@in_turns(
    3,
    name=LOSSES,
    mining=[None, "hard", "semi_hard"],
    backend=BACKENDS,
    what=["duplicates", "alike", "zero vectors", "tiny", "huge"],
)
def test_finite(name, mining, backend, what):
    x, labels = batch(3, 2, 5)
    if what == "duplicates":
        x, labels = torch.cat([x, x]), torch.cat([labels, labels])
    elif what == "alike":
        x = torch.full((6, 4), 0.5, dtype=torch.float64)
    elif what == "zero vectors":
        x[:2] = 0
    else:
        x = x * {"tiny": 1e-4, "huge": 200.0}[what]
    for measure in ["cosine"] if name == "angular" else ["cosine", "euclidean"]:
        y = x.clone().requires_grad_()
        value = nearfar.losses.create(name, mining=mining, backend=backend, similarity=measure)(y, labels)
        (grad,) = torch.autograd.grad(value, y)
        assert torch.isfinite(value)
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LOSSES)
def test_against_candidates_equals_within(name, backend):
    """A batch against itself as candidates, self-pairs left out by id."""
    x, labels = batch(4, 3, 6, spread=0.8)
    loss = nearfar.losses.create(name, backend=backend, reduction="none", learn=False)
    ids = torch.arange(len(x))
    within = loss(x, labels)
    torch.testing.assert_close(loss(x, labels, x.clone(), labels, ids=ids, candidate_ids=ids), within)


RULE_NAMES = sorted(set(nearfar.mining.names()) - {"all"})
BY_THRESHOLD = ["relative", "multi_similarity", "interval"]


@in_turns(2, name=LOSSES, rule=RULE_NAMES)
def test_every_rule(name, rule):
    """Whatever mining leaves, the backends agree; or the loss says why it cannot be mined so."""
    x, labels = batch(5, 3, 6, spread=0.8)
    seed = {"seed": 7} if rule in ("random", "distance_weighted") else {}
    found = []
    for backend in BACKENDS:
        y = x.clone().requires_grad_()
        bound = {"above": -1.3 if name in DISTANCE else -0.1} if rule == "interval" else {}
        mining = {"name": rule, **seed, **bound}
        loss = nearfar.losses.create(name, mining=mining, backend=backend, learn=False)
        if name in ("angular", "quadruplet") and rule in BY_THRESHOLD:
            with pytest.raises(NearfarError, match="names negatives"):
                loss(y, labels)
            return
        value = loss(y, labels)
        found.append((value, torch.autograd.grad(value, y)[0]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-8, atol=1e-10)


def test_margin_counts_a_negative_as_often_as_it_is_drawn():
    x, labels = batch(4, 4, 8, spread=0.8)
    rule = {"name": "distance_weighted", "seed": 3}
    loss = nearfar.losses.create("margin", mining=rule, reduction="mean_active", learn=False)
    pairs = nearfar.mining.create(rule)(nearfar.Pairs.within(x, labels, similarity="euclidean"))
    terms = []
    drawn = zip(pairs.positives.anchor, pairs.positives.candidate, pairs.chosen.columns[:, 0], strict=True)
    for a, p, n in drawn:
        terms += [(x[a] - x[p]).norm() - 1.0, 1.4 - (x[a] - x[n]).norm()]
    terms = torch.stack(terms).clamp_min(0)
    torch.testing.assert_close(loss(x, labels), terms.sum() / (terms > 0).sum())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["tags", "listed"])
def test_other_labels(name, kind):
    """Tags and lists that say the same as classes give the same."""
    x, labels = batch(4, 3, 6, spread=0.8)
    same = torch.nonzero(torch.triu(labels[:, None] == labels, diagonal=1))
    other = torch.nn.functional.one_hot(labels) if kind == "tags" else nearfar.similarity.Relevance(same)
    loss = nearfar.losses.create(name, learn=False)
    if name == "quadruplet":
        with pytest.raises(NearfarError, match="labels must be classes"):
            loss(x, other)
        return
    torch.testing.assert_close(loss(x, other), loss(x, labels))


def test_settings_that_do_not_fit_are_refused():
    x, labels = batch(3, 3, 5)
    for name, settings, message in [
        ("margin", {"margin": -0.1}, "must not be negative"),
        ("margin", {"count": "either"}, "counts triplets"),
        ("rank_hard", {"negatives": 0}, "at least 1"),
        ("angular", {"alpha": 90.0}, "between 0 and 90"),
        ("angular", {"similarity": "euclidean"}, "inner products"),
        ("angular", {"mining": "multi_similarity"}, "names negatives"),
        ("quadruplet", {"mining": "multi_similarity"}, "names negatives"),
        ("quadruplet", {"second_margin": -1.0}, "must not be negative"),
        ("triplet_weighted", {"eps": -1.0}, "must not be negative"),
    ]:
        with pytest.raises(NearfarError, match=message):
            nearfar.losses.create(name, **settings)(x, labels)


EUCLIDEAN = distances.LpDistance(normalize_embeddings=False)
PEERS = {
    "angular": (losses.AngularLoss(alpha=40), None, {}),
    "margin": (
        losses.MarginLoss(margin=0.2, beta=1.25, distance=EUCLIDEAN),
        None,
        {"beta": 1.25, "per": "triplet", "similarity": "euclidean"},
    ),
    "triplet": (
        losses.TripletMarginLoss(margin=0.1, distance=EUCLIDEAN),
        None,
        {"margin": 0.1, "similarity": "euclidean"},
    ),
    "triplet_weighted": (
        losses.TripletMarginLoss(margin=0.3, distance=EUCLIDEAN, reducer=reducers.MeanReducer()),
        miners.BatchHardMiner(distance=EUCLIDEAN),
        {"mining": "hard", "similarity": "euclidean"},
    ),
}


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_pytorch_metric_learning(name, seed):
    theirs, miner, settings = PEERS[name]
    x, labels = batch(6, 4, 16, spread=0.9, seed=seed)
    # Normalised here: the peer's angular loss normalises anchors and positives, but not negatives.
    unit = normalize(x.requires_grad_(), dim=1)
    expected = theirs(unit, labels, None if miner is None else miner(unit, labels))
    value = nearfar.losses.create(name, learn=False, **settings)(unit, labels)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    (grad,) = torch.autograd.grad(value, x, retain_graph=True)
    (expected_grad,) = torch.autograd.grad(expected, x)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-7, atol=1e-9)
