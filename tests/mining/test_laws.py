"""What must not change a mined loss, and batches in which a rule finds little or nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nearfar
from nearfar.mining import names
from problems import BACKENDS, batch
from turns import in_turns

pytestmark = pytest.mark.filterwarnings("ignore:this batch has no positive pair")

LOSSES = ["multi_similarity", "triplet"]
RULES = [
    {"name": "easy"},
    {"name": "easy_positive"},
    {"name": "hard", "keep_positives": "all"},
    {"name": "interval", "above": -0.5, "positives_below": 0.9},
    {"name": "multi_similarity"},
    {"name": "relative", "positive_method": "relative_easy", "keep_negatives": 2},
    {
        "name": "relative",
        "positive_method": "hard",
        "negative_method": "relative_easy",
        "positive_shift": 0.1,
    },
    {"name": "semi_hard"},
    {"name": "top_k", "keep_negatives": 2, "keep_positives": 1},
]
# One setting of every rule, drawing ones with a fixed key.
EVERY = [
    *RULES,
    {"name": "distance_weighted", "seed": 3},
    {"name": "random", "keep_negatives": 2, "keep_positives": 1, "seed": 3},
    {"name": "relative", "positive_method": "easy", "negative_over": "batch"},
    "all",
    "hard",
]


def test_every_rule_is_here():
    assert {rule if isinstance(rule, str) else rule["name"] for rule in EVERY} == set(names())


def value_and_gradient(loss, x, labels, **call):
    x = x.clone().requires_grad_()
    value = loss(x, labels, **call)
    (grad,) = torch.autograd.grad(value, x)
    return value.detach(), grad


@st.composite
def problems(draw):
    n = draw(st.integers(2, 12))
    labels = torch.tensor(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(n, draw(st.sampled_from([3, 7])), generator=generator, dtype=torch.float64)
    loss = nearfar.losses.create(draw(st.sampled_from(LOSSES)), mining=draw(st.sampled_from(RULES)))
    return loss, x, labels, torch.randperm(n, generator=generator)


@settings(max_examples=80, deadline=None)
@given(problems())
def test_order_of_rows(problem):
    loss, x, labels, order = problem
    value, grad = value_and_gradient(loss, x, labels)
    shuffled, shuffled_grad = value_and_gradient(loss, x[order], labels[order])
    torch.testing.assert_close(shuffled, value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(shuffled_grad, grad[order], rtol=1e-8, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(problems(), st.permutations([2**40, -7, 0, 123_456_789_012]))
def test_names_of_classes(problem, renamed):
    # Rounding only: a backend may order its work by label.
    loss, x, labels, _ = problem
    value, grad = value_and_gradient(loss, x, labels)
    other, other_grad = value_and_gradient(loss, x, torch.tensor(renamed)[labels])
    torch.testing.assert_close(other, value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(other_grad, grad, rtol=1e-11, atol=1e-13)


def edges() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    x, labels = batch(3, 3, 4)
    return {
        "one row": (x[:1], labels[:1]),
        "no positive": (x, torch.arange(9)),
        "no negative": (x, torch.zeros(9, dtype=torch.long)),
        "singletons": (x[:5], torch.tensor([0, 0, 1, 2, 3])),
        "duplicates": (x[[0, 0, 0, 1, 1, 2]], torch.tensor([0, 0, 1, 1, 2, 2])),
        "a zero vector": (torch.cat([x[:5], x[:1] * 0]), torch.tensor([0, 0, 1, 1, 2, 2])),
        "all the same": (x[[0] * 6], torch.tensor([0, 0, 1, 1, 2, 2])),
    }


@in_turns(3, backend=BACKENDS, rule={str(one): one for one in EVERY}, edge=[*edges()])
def test_edges_are_finite(edge, rule, backend):
    x, labels = edges()[edge]
    for name, measure in [("multi_similarity", "cosine"), ("triplet", "euclidean")]:
        loss = nearfar.losses.create(name, mining=rule, similarity=measure, backend=backend)
        value, grad = value_and_gradient(loss, x, labels)
        assert value.isfinite(), name
        assert grad.isfinite().all(), name
        if edge == "one row":
            assert value == 0
            assert not grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", EVERY, ids=str)
def test_single_precision_and_other_candidates(rule, backend):
    x, labels = batch(4, 3, 6, seed=1)
    y, candidate_labels = batch(4, 5, 6, seed=1)
    for name in LOSSES:
        loss = nearfar.losses.create(name, mining=rule, backend=backend)
        exact = loss(x, labels, y, candidate_labels)
        torch.testing.assert_close(
            loss(x.float(), labels, y.float(), candidate_labels).double(), exact, rtol=2e-5, atol=2e-6
        )
