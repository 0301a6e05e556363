"""Rules that draw: the generator, the distributions, and that the same key draws the same."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch

import mining_oracle as oracle
import nearfar
from nearfar.errors import NearfarError
from nearfar.mining.counter import STEP, mixed, uniforms
from nearfar.mining.distance_weighted import log_weight
from nearfar.mining.random import subsets
from nearfar.pairs import Pairs
from nearfar.similarity import Sample
from problems import BACKENDS, batch, golden_folder

DRAWING = ["random", "distance_weighted"]
SPREAD = {"random": {"keep_negatives": 3, "keep_positives": 1}, "distance_weighted": {"farthest": None}}


def cases(system: str) -> list:
    return sorted((golden_folder / "losses" / system).glob("*.npz"))


def test_generator_is_splitmix64():
    # The published first outputs for the seed 1234567.
    first = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    state = 1234567 + torch.arange(1, 5) * STEP
    assert [x % 2**64 for x in mixed(state).tolist()] == first


@pytest.mark.parametrize("key", [0, 1, -1, 2**63 - 1])
def test_uniforms_are_uniform(key):
    u = uniforms(key, torch.arange(4000), 8)
    assert u.dtype == torch.float64
    assert u.min() >= 0
    assert u.max() < 1
    count = torch.histc(u, 100, 0, 1)
    chi_square = ((count - 320) ** 2 / 320).sum()  # 99 degrees of freedom
    assert 55 < chi_square < 150
    assert torch.corrcoef(u.T).fill_diagonal_(0).abs().max() < 0.06  # places in a row
    assert abs(torch.corrcoef(torch.stack([u[:-1, 0], u[1:, 0]]))[0, 1]) < 0.06  # neighbouring rows


def test_uniforms_depend_on_key_name_and_place_alone():
    whole = uniforms(9, torch.arange(50), 7)
    some = torch.tensor([31, 4, 4])
    assert torch.equal(uniforms(9, some, 7), whole[some])
    assert torch.equal(uniforms(9, some, 3), whole[some, :3])
    assert not (uniforms(10, torch.arange(50), 7) == whole).any()


def test_subsets_are_equally_likely():
    drawn = subsets(uniforms(3, torch.arange(30_000), 3), torch.full((30_000,), 5))
    sets, count = drawn.sort(1).values.unique(dim=0, return_counts=True)
    assert [tuple(s) for s in sets.tolist()] == list(combinations(range(5), 3))
    assert (count / 3000 - 1).abs().max() < 0.07


def test_subsets_of_fewer_than_asked():
    drawn = subsets(uniforms(3, torch.arange(4), 3), torch.tensor([0, 1, 2, 3]))
    assert [sorted(row) for row in drawn.tolist()] == [[-1, -1, -1], [-1, -1, 0], [-1, 0, 1], [0, 1, 2]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_keeps_that_many(backend):
    x, labels = batch(3, 4, 5)
    labels[0] = 99
    pairs = Pairs.within(x, labels, backend=backend)
    everyone = oracle.left(pairs)
    seen = set()
    for seed in range(12):
        rule = nearfar.mining.create(
            {"name": "random", "keep_negatives": 4, "keep_positives": 2, "seed": seed}
        )
        kept = oracle.left(rule(pairs))
        for i in range(len(x)):
            positives = [j for a, j in kept.positives if a == i]
            assert len(positives) == min(2, sum(a == i for a, _ in everyone.positives))
            assert sum(a == i for a, _ in kept.negatives) == 4
        assert kept.positives < everyone.positives
        assert kept.negatives < everyone.negatives
        seen |= kept.negatives | kept.positives
    assert seen == everyone.negatives | everyone.positives


@pytest.mark.parametrize("name", DRAWING)
def test_same_torch_seed_same_draws(name):
    x, labels = batch(5, 3, 6)
    pairs = Pairs.within(x, labels)
    rule = nearfar.mining.create({"name": name, **SPREAD[name]})

    def after(seed: int) -> list[oracle.Selection]:
        torch.manual_seed(seed)
        return [oracle.left(rule(pairs)) for _ in range(2)]

    with torch.random.fork_rng():
        first, again, other = after(1), after(1), after(2)
    assert first == again
    assert first[0] != first[1]
    assert first[0] != other[0]
    fixed = nearfar.mining.create({"name": name, **SPREAD[name], "seed": 3})
    assert oracle.left(fixed(pairs)) == oracle.left(fixed(pairs))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", DRAWING)
def test_backends_draw_the_same(name, backend):
    x, labels = batch(6, 3, 7, seed=2)
    rule = nearfar.mining.create({"name": name, **SPREAD[name], "seed": 11})
    ours = oracle.left(rule(Pairs.within(x, labels, backend=backend)))
    assert ours == oracle.left(rule(Pairs.within(x, labels, backend="reference")))


@pytest.mark.parametrize("name", DRAWING)
def test_an_id_draws_the_same_in_any_place(name):
    x, labels = batch(5, 3, 6)
    candidates, candidate_labels = batch(5, 4, 6, seed=1)
    ids, candidate_ids = torch.arange(15) * 7, -1 - torch.arange(20)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    rule = nearfar.mining.create({"name": name, **SPREAD[name], "seed": 5})

    def kept(rows: torch.Tensor) -> oracle.Selection:
        pairs = Pairs.between(
            x[rows], labels[rows], candidates, candidate_labels, ids=ids[rows], candidate_ids=candidate_ids
        )
        return oracle.left(rule(pairs))

    plain, shuffled = kept(torch.arange(15)), kept(order)
    assert {(int(order[i]), j) for i, j in shuffled.negatives} == plain.negatives
    assert {(int(order[i]), j) for i, j in shuffled.positives} == plain.positives


@pytest.mark.parametrize("measure", ["cosine", "dot", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("system", ["margin_mxnet", "margin_loss"])
def test_weights_are_the_originals(system, measure):
    """Probabilities of the authors' and of a second implementation, where theirs did not fall back."""
    paths = cases(system)
    assert paths
    for path in paths:
        case = np.load(path)
        config = json.loads(str(case["config"]))
        x, labels = torch.tensor(case["embeddings"]).double(), torch.tensor(case["labels"])
        weigh = log_weight(measure, x.shape[1], config["cutoff"], config.get("nonzero_loss_cutoff"))
        z = weigh(torch.tensor(oracle.table(x, measure), dtype=torch.float64))
        ours = z.masked_fill(labels[:, None] == labels, -torch.inf).softmax(1)
        theirs = torch.tensor(case["neg_prob"]).double()
        fine = torch.ones(len(x), dtype=torch.bool)
        if system == "margin_mxnet":
            fine = torch.tensor(case["uniform_fallback"]) == 0
        assert fine.sum() > len(x) / 2
        distance = (ours - theirs)[fine].abs().sum(1) / 2
        assert distance.max() < 2e-5, path.stem


@pytest.mark.parametrize("path", cases("margin_mxnet")[:3], ids=lambda path: path.stem)
def test_draws_follow_the_weights(path):
    case = np.load(path)
    x, labels = torch.tensor(case["embeddings"]), torch.tensor(case["labels"]).long()
    pairs, n, draws = Pairs.within(x, labels), len(x), 20_000
    weigh = log_weight("cosine", x.shape[1], 0.5, 1.4)
    (drawn,) = pairs.stream(Sample(weigh, uniforms(1, torch.arange(n), draws)))
    share = torch.stack([torch.bincount(row, minlength=n) for row in drawn]) / draws
    expected = torch.tensor(case["neg_prob"])
    possible = expected > 0
    assert not share[~possible].any()
    # Pearson's statistic has the degrees of freedom as its mean: summed over rows, few per cent around it.
    statistic = (draws * (share - expected) ** 2 / expected)[possible].sum()
    freedom = (possible.sum(1) - 1).sum()
    assert abs(statistic / freedom - 1) < 5 * (2 / freedom) ** 0.5


def test_the_rule_draws_with_these_weights():
    x, labels = batch(4, 3, 5, spread=0.9)
    pairs = Pairs.within(x, labels)
    count = torch.zeros(12, 12)
    for seed in range(600):
        rule = nearfar.mining.create({"name": "distance_weighted", "seed": seed})
        kept = rule(pairs)
        assert len(kept.positives.anchor) == 24  # one negative for every positive pair
        for i, _, k in oracle.left(kept).triplets:
            count[i, k] += 1
    weight = log_weight("cosine", 5, 0.5, 1.4)(x @ x.T).masked_fill(labels[:, None] == labels, -torch.inf)
    # Two pairs of an anchor that draw the same negative count once each: a triplet names its positive.
    assert (count.sum(1) == 1200).all()
    distance = (count / 1200 - weight.softmax(1)).abs().sum(1) / 2
    assert distance.max() < 0.05


def test_all_weights_zero_draws_uniformly():
    # Anchor 0 is opposite to all negatives, beyond `farthest`.
    x = torch.tensor([[1.0, 0.0], [0.99, 0.1], [-1.0, 0.1], [-1.0, 0.0], [-1.0, -0.1]]).double()
    pairs = Pairs.within(x, torch.tensor([0, 0, 1, 2, 3]))
    partners = set()
    for seed in range(40):
        rule = nearfar.mining.create({"name": "distance_weighted", "seed": seed})
        partners |= {k for i, _, k in oracle.left(rule(pairs)).triplets if i == 0}
    assert partners == {2, 3, 4}


def test_distance_weighted_wants_unit_vectors():
    x, labels = batch(3, 2, 4)
    rule = nearfar.mining.create("distance_weighted")
    for measure in ("dot", "euclidean", "squared_euclidean"):
        rule(Pairs.within(x.float(), labels, similarity=measure))
        with pytest.raises(NearfarError, match="has length 3"):
            rule(Pairs.within(3 * x, labels, similarity=measure))
    kept = rule(Pairs.within(3 * x, labels))
    assert len(kept.positives.anchor) == 6


def test_euclidean_draws_what_cosine_draws():
    x, labels = batch(5, 3, 6)
    rule = nearfar.mining.create({"name": "distance_weighted", "seed": 1})
    cosine = oracle.left(rule(Pairs.within(x, labels)))
    for measure in ("dot", "euclidean", "squared_euclidean"):
        assert oracle.left(rule(Pairs.within(x, labels, similarity=measure))) == cosine
