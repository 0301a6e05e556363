"""What must not change a loss: the order of rows, the names of classes, the backend, ids that all differ."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nearfar
from problems import PAIR_LOSSES

MINING = [None, "hard", "semi_hard", "multi_similarity"]


@st.composite
def problems(draw):
    """A small batch with distinct similarities, a loss, a mining rule and a measure."""
    n = draw(st.integers(2, 12))
    labels = torch.tensor(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(n, draw(st.sampled_from([3, 7])), generator=generator, dtype=torch.float64)
    name = draw(st.sampled_from(PAIR_LOSSES))
    mining = draw(st.sampled_from(MINING))
    measure = draw(st.sampled_from(["cosine", "euclidean", "squared_euclidean"]))
    create = {"name": name, "mining": mining, "similarity": measure}
    return create, x, labels, generator


def value_and_gradient(create, x, labels, **call):
    loss = nearfar.losses.create(create["name"], **{k: v for k, v in create.items() if k != "name"})
    x = x.clone().requires_grad_()
    value = loss(x, labels, **call)
    (grad,) = torch.autograd.grad(value, x)
    return value.detach(), grad


pytestmark = pytest.mark.filterwarnings("ignore:this batch has no positive pair")


@settings(max_examples=60, deadline=None)
@given(problems())
def test_order_of_rows(problem):
    create, x, labels, generator = problem
    order = torch.randperm(len(x), generator=generator)
    value, grad = value_and_gradient(create, x, labels)
    shuffled, shuffled_grad = value_and_gradient(create, x[order], labels[order])
    torch.testing.assert_close(shuffled, value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(shuffled_grad, grad[order], rtol=1e-8, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(problems(), st.permutations([2**40, -7, 0, 123_456_789_012]))
def test_names_of_classes(problem, names):
    create, x, labels, _ = problem
    value, grad = value_and_gradient(create, x, labels)
    renamed, renamed_grad = value_and_gradient(create, x, torch.tensor(names)[labels])
    torch.testing.assert_close(renamed, value, rtol=0, atol=0)
    torch.testing.assert_close(renamed_grad, grad, rtol=0, atol=0)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_backends(problem):
    create, x, labels, _ = problem
    value, grad = value_and_gradient({**create, "backend": "dense"}, x, labels)
    reference, reference_grad = value_and_gradient({**create, "backend": "reference"}, x, labels)
    torch.testing.assert_close(value, reference, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grad, reference_grad, rtol=1e-9, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_against_itself_as_candidates_with_ids(problem):
    """`within` is `between` a batch and itself, self-pairs left out by id; the gradient arrives on two sides."""
    create, x, labels, _ = problem
    value, grad = value_and_gradient(create, x, labels)
    loss = nearfar.losses.create(create["name"], **{k: v for k, v in create.items() if k != "name"})
    anchors, candidates = x.clone().requires_grad_(), x.clone().requires_grad_()
    ids = torch.arange(len(x))
    other = loss(anchors, labels, candidates, labels, ids=ids, candidate_ids=ids)
    left, right = torch.autograd.grad(other, [anchors, candidates])
    torch.testing.assert_close(other.detach(), value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(left + right, grad, rtol=1e-8, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(problems(), st.integers(2, 4))
def test_a_weight_counts_the_anchor_that_often(problem, times):
    create, x, labels, _ = problem
    loss = nearfar.losses.create(create["name"], **{k: v for k, v in create.items() if k != "name"})
    weights = torch.ones(len(x))
    weights[0] = times
    weighted = loss(x, labels, weights=weights)
    again = torch.cat([x[:1]] * (times - 1) + [x])
    ids = torch.cat([torch.zeros(times - 1, dtype=torch.long), torch.arange(len(x))])
    repeated = loss(
        again,
        torch.cat([labels[:1]] * (times - 1) + [labels]),
        x,
        labels,
        ids=ids,
        candidate_ids=torch.arange(len(x)),
    )
    torch.testing.assert_close(weighted, repeated, rtol=1e-9, atol=1e-12)
