"""Each mining rule, by itself and under a loss, against loops over its definition."""

import pytest
import torch

import loss_oracle
import mining_oracle as oracle
import nearfar
from nearfar.errors import NearfarError
from nearfar.pairs import Pairs
from problems import BACKENDS, batch

LOSSES = ["supcon", "triplet"]  # one that reads pairs, one that reads triplets
METHODS = ["all", "hard", "easy", "relative_hard", "relative_easy"]
RULES = [
    {"name": "hard"},
    {"name": "hard", "keep_positives": "all"},
    {"name": "hard", "keep_negatives": "all"},
    {"name": "easy"},
    {"name": "easy", "keep_positives": "all"},
    {"name": "easy", "keep_negatives": "all"},
    {"name": "easy_positive"},
    {"name": "easy_positive", "keep_negatives": "hard"},
    {"name": "semi_hard", "margin": 0.3},
    {"name": "semi_hard", "margin": 0.3, "otherwise": "farthest"},
    {"name": "multi_similarity"},
    {"name": "top_k", "keep_negatives": 3},
    {"name": "top_k", "keep_negatives": 2, "keep_positives": 1},
    {"name": "top_k", "keep_negatives": 99, "keep_positives": 99},
    {"name": "interval", "above": -0.9, "below": 0.1},
    {"name": "interval", "above": -1.2},
    {"name": "interval", "positives_above": -1.5, "positives_below": 0.5},
    {"name": "relative"},
    {"name": "relative", "keep_negatives": 2, "positive_method": "relative_hard", "keep_positives": 1},
    {
        "name": "relative",
        "negative_method": "relative_easy",
        "positive_method": "relative_easy",
        "keep_negatives": 0.2,
    },
    {"name": "relative", "negative_over": "batch", "keep_negatives": 0.1},
    {"name": "relative", "positive_method": "hard", "negative_method": "hard", "negative_shift": -0.05},
    {"name": "relative", "positive_method": "easy", "negative_method": "easy", "positive_shift": 0.05},
    {"name": "relative", "positive_method": "hard", "positive_over": "batch", "negative_method": "all"},
]


def shown(rule: dict) -> str:
    return " ".join(str(value) for value in rule.values())


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    x, labels = batch(4, 3, 6, spread=0.8)
    labels[0] = 99  # a class of one
    return x, labels


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
@pytest.mark.parametrize("rule", RULES, ids=shown)
def test_keeps_what_the_definition_keeps(rule, measure, backend):
    x, labels = problem()
    pairs = Pairs.within(x, labels, similarity=measure, backend=backend)
    settings = {key: value for key, value in rule.items() if key != "name"}
    expected = oracle.rules[rule["name"]](oracle.table(x, measure), labels, **settings)
    assert oracle.left(nearfar.mining.create(rule)(pairs)) == expected
    assert expected.positives
    assert expected.negatives


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("over", ["anchor", "batch"])
@pytest.mark.parametrize("keep", [1, 3, 0.3, 1.0])
def test_relative_every_method_with_every_method(keep, over, backend):
    # Whole numbers, so that every similarity is exact and equal ones are equal in any order of summation.
    generator = torch.Generator().manual_seed(4)
    x = torch.randint(-3, 4, (11, 4), generator=generator).double()
    labels = torch.randint(0, 4, (11,), generator=generator)
    pairs = Pairs.within(x, labels, similarity="dot", backend=backend)
    for positives in METHODS:
        for negatives in METHODS:
            settings = {
                "positive_method": positives,
                "negative_method": negatives,
                "positive_over": over,
                "negative_over": over,
                "keep_positives": keep,
                "keep_negatives": keep,
                "negative_shift": 1.0,
                "positive_shift": -1.0,
            }
            rule = nearfar.mining.create({"name": "relative", **settings})
            expected = oracle.relative(oracle.table(x, "dot"), labels, **settings)
            assert oracle.left(rule(pairs)) == expected, settings


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "rule",
    [*RULES, {"name": "random", "keep_negatives": 3, "seed": 5}, {"name": "distance_weighted", "seed": 7}],
    ids=shown,
)
def test_under_a_loss(rule, name, backend):
    """Value and gradient are those of the formula over the pairs that the rule keeps."""
    x, labels = problem()
    kept = oracle.left(nearfar.mining.create(rule)(Pairs.within(x, labels)))
    x = x.requires_grad_()
    loss = nearfar.losses.create(name, mining=rule, backend=backend, reduction="none")
    ours = loss(x, labels)
    theirs = torch.stack([loss_oracle.per_anchor[name](row_of(x, i, kept)) for i in range(len(x))])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    upstream = torch.linspace(0.5, 1.5, len(x), dtype=torch.float64)
    (grad,) = torch.autograd.grad(ours @ upstream, x)
    (expected,) = torch.autograd.grad(theirs @ upstream, x)
    torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-9)


def row_of(x: torch.Tensor, i: int, kept: oracle.Selection) -> loss_oracle.Row:
    def s(j: int) -> torch.Tensor:
        return loss_oracle.similarity(x[i], x[j], "cosine")

    positives = [s(j) for a, j in sorted(kept.positives) if a == i]
    negatives = [s(j) for a, j in sorted(kept.negatives) if a == i]
    if kept.triplets is None:
        triplets = [(p, n) for p in positives for n in negatives]
    else:
        triplets = [(s(j), s(k)) for a, j, k in sorted(kept.triplets) if a == i]
    # A zero that hangs on x, for an anchor that keeps nothing.
    return loss_oracle.Row(positives, negatives, triplets or [(0 * s(i), 0 * s(i) - 9)])


def test_by_hand():
    # On the line: anchor 0 at 0, its class at 1 and 4, others at 2, 3 and 10.
    x = torch.tensor([[0.0], [1.0], [4.0], [2.0], [3.0], [10.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 2, 3])
    pairs = Pairs.within(x, labels, similarity="euclidean")

    def of_anchor_0(**rule) -> tuple[set[int], set[int]]:
        kept = oracle.left(nearfar.mining.create(rule)(pairs))
        return {j for i, j in kept.positives if i == 0}, {j for i, j in kept.negatives if i == 0}

    assert of_anchor_0(name="hard") == ({2}, {3})
    assert of_anchor_0(name="easy") == ({1}, {5})
    assert of_anchor_0(name="easy_positive") == ({1}, {3})
    assert of_anchor_0(name="top_k", keep_negatives=2) == ({1, 2}, {3, 4})
    assert of_anchor_0(name="interval", above=-5.0, below=-2.0) == ({1, 2}, {4})
    assert of_anchor_0(name="relative", keep_negatives=2, positive_method="hard") == ({2}, {3, 4})
    assert of_anchor_0(name="relative", negative_method="hard", positive_method="easy") == ({1}, {3, 4})
    # identsn = diffsn = 0: the threshold is the largest of each kind.
    caffe = {"keep_positives": 0, "keep_negatives": 0, "ranking": "caffe"}
    assert of_anchor_0(name="relative", positive_method="relative_hard", **caffe) == ({1, 2}, {3})


def test_equal_pairs_stay_together():
    x = torch.tensor([[0.0], [1.0], [2.0], [-2.0], [5.0]], dtype=torch.float64)
    pairs = Pairs.within(x, torch.tensor([0, 0, 1, 2, 3]), similarity="euclidean")
    kept = oracle.left(nearfar.mining.create({"name": "relative", "keep_negatives": 1})(pairs))
    assert {j for i, j in kept.negatives if i == 0} == {2, 3}
    kept = oracle.left(nearfar.mining.create({"name": "top_k", "keep_negatives": 1})(pairs))
    assert len({j for i, j in kept.negatives if i == 0}) == 1


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({"name": "top_k", "keep_negatives": 0}, "top_k keeps 1 or more"),
        ({"name": "top_k", "keep_positives": 0}, "top_k keeps 1 or more"),
        ({"name": "random", "keep_negatives": 0}, "random draws 1 or more"),
        ({"name": "interval"}, "interval needs a bound"),
        ({"name": "interval", "above": 0.5, "below": 0.5}, "no similarity lies above 0.5 and below 0.5"),
        ({"name": "distance_weighted", "nearest": 1.5}, "0 < nearest < farthest"),
        ({"name": "relative", "keep_negatives": 1.5}, "a fraction in \\(0, 1\\]; got 1.5"),
        ({"name": "relative", "keep_positives": -0.3}, "need ranking='caffe'"),
        ({"name": "easy_positiv"}, "Did you mean 'easy_positive'"),
    ],
    ids=str,
)
def test_refuses_in_words(rule, sentence):
    x, labels = batch(2, 2, 3)
    with pytest.raises(NearfarError, match=sentence):
        nearfar.mining.create(rule)(Pairs.within(x, labels))


def test_no_setting_is_a_losss_by_accident():
    """A rule's setting takes the value of a loss's setting of the same name: only a margin is meant to."""
    for rule in nearfar.mining.names():
        for loss in nearfar.losses.names():
            both = set(nearfar.mining.settings(rule).parameters) & set(
                nearfar.losses.settings(loss).parameters
            )
            assert both <= {"margin"}, (rule, loss)
