"""What must not change a loss: the order of rows, the names of classes, the backend, how the work is cut.

Every loss without proxies with mining rules, under every measure: each example takes several rules and turns the
measures among them. Hypothesis draws the settings and the batch, of any kind of labels. Embeddings are
normal deviates, so that no two similarities tie. Where a loss and a rule do not go together, every way to
compute them must say so.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor

import nearfar
from loss_problems import DRAWING, RULES, Problem, problems, with_rules
from nearfar.criterion import arithmetic
from nearfar.errors import NearfarError
from nearfar.inputs import Labels
from nearfar.losses.parts.registry import registry
from nearfar.similarity import Relevance
from nearfar.similarity.tiled import block as tiled
from nearfar.similarity.tiled import two_passes
from problems import PAIR_LOSSES, TRIPLET_LOSSES, TWO_SIDED_LOSSES, WHOLE_BATCH_LOSSES

pytestmark = pytest.mark.filterwarnings("ignore:this batch has no positive pair")

ONE_SIDED = PAIR_LOSSES + TRIPLET_LOSSES
EVERY_LOSS = ONE_SIDED + TWO_SIDED_LOSSES + WHOLE_BATCH_LOSSES
EXAMPLES = 2

Outcome = tuple[Tensor, ...] | None
"""The value and the gradients of embeddings and of learned settings; None when the loss was refused."""


def outcome(create: dict[str, Any], problem: Problem) -> Outcome:
    """Compute the loss of a batch against itself."""
    x = problem.x.clone().requires_grad_()
    return computed(create, x, (x, problem.labels), weights=problem.weights, ids=problem.ids)


def against_itself(
    create: dict[str, Any], problem: Problem, anchors: Tensor, weights: Tensor | None
) -> Outcome:
    """Compute the loss of some rows, each as often as it is named, against the batch as candidates."""
    x, labels = problem.x.clone().requires_grad_(), problem.labels
    ids = torch.arange(len(x)) if problem.ids is None else problem.ids
    if isinstance(labels, Relevance):
        listed = torch.zeros(len(x), len(x), dtype=torch.bool)
        listed[labels.pairs[:, 0], labels.pairs[:, 1]] = True
        sides = (x[anchors], Relevance(torch.nonzero(listed[anchors])), x.clone())
    else:
        sides = (x[anchors], labels[anchors], x.clone(), labels)
    return computed(create, x, sides, weights=weights, ids=ids[anchors], candidate_ids=ids)


def computed(create: dict[str, Any], x: Tensor, sides: tuple[Any, ...], **call: Any) -> Outcome:
    note(str(create))
    try:
        loss = nearfar.losses.create(**create)
        value = loss(*sides, **call)
    except NearfarError:
        return None
    grads = torch.autograd.grad(value, [x, *loss.learned.values()], materialize_grads=True)
    return value.detach(), *grads


def agree(one: Outcome, other: Outcome) -> None:
    """Both refused, or equal but for rounding; what is learned is float32."""
    if one is None or other is None:
        assert one is other
        return
    for a, b in zip(one, other, strict=True):
        relative, absolute = (1e-4, 1e-5) if a.dtype == torch.float32 else (1e-8, 1e-10)
        size = max(1.0, b.abs().max().item()) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=relative, atol=size * absolute)


def test_every_loss_and_every_rule_is_here():
    entries = {name: registry[name] for name in nearfar.losses.names()}
    elsewhere = {name for name, entry in entries.items() if entry.proxies or entry.needs == "nothing"}
    assert set(EVERY_LOSS) | elsewhere == set(entries)
    assert {*RULES, "all"} == set(nearfar.mining.names())


some = settings(max_examples=EXAMPLES, deadline=None)


@with_rules(EVERY_LOSS, 6, 0)
@some
@given(data=st.data())
def test_order_of_rows(data, name, rules):
    problem = data.draw(problems(name, [rule for rule in rules if rule not in DRAWING]))
    order, weights = problem.order, problem.weights
    back = torch.argsort(order)
    shuffled = replace(
        problem,
        x=problem.x[order],
        labels=relabelled(problem.labels, lambda labels: labels[order], lambda pairs: back[pairs]),
        ids=None if problem.ids is None else problem.ids[order],
        weights=None if weights is None else weights[order],
    )
    for create in problem.losses:
        found = outcome(create, shuffled)
        agree(found and (found[0], found[1][back], *found[2:]), outcome(create, problem))


@with_rules(EVERY_LOSS, 6, 1)
@some
@given(data=st.data())
def test_order_of_anchors(data, name, rules):
    """Against candidates that stay where they are, rules that draw give an anchor what its id draws."""
    problem = data.draw(problems(name, rules))
    order, weights = problem.order, problem.weights
    shuffled = None if weights is None else weights[order]
    for create in problem.losses:
        whole = against_itself(create, problem, torch.arange(len(order)), weights)
        agree(against_itself(create, problem, order, shuffled), whole)


@with_rules(EVERY_LOSS, 6, 2)
@some
@given(data=st.data())
def test_names_of_classes(data, name, rules):
    """Other numbers for the classes, other columns for the tags, the list of pairs in another order."""
    problem = data.draw(problems(name, rules))
    names = torch.tensor(data.draw(st.permutations([2**40, -7, 0, 123_456_789_012])))
    labels = relabelled(
        problem.labels,
        lambda labels: names[labels] if labels.ndim == 1 else labels[:, names.argsort()],
        lambda pairs: torch.cat([pairs.flip(0), pairs[:1]]),
    )
    backend = data.draw(st.sampled_from(["dense", "tiled"]))
    for create in problem.losses:
        create["backend"] = backend
        agree(outcome(create, replace(problem, labels=labels)), outcome(create, problem))


def relabelled(labels: Labels, rows: Callable, pairs: Callable) -> Labels:
    return Relevance(pairs(labels.pairs)) if isinstance(labels, Relevance) else rows(labels)


@with_rules(EVERY_LOSS, 6, 3)
@some
@given(data=st.data())
def test_backends(data, name, rules):
    problem = data.draw(problems(name, rules))
    for create in problem.losses:
        reference = outcome({**create, "backend": "reference"}, problem)
        for backend in ("dense", "tiled"):
            agree(outcome({**create, "backend": backend}, problem), reference)


@with_rules(EVERY_LOSS, 6, 4)
@some
@given(data=st.data())
def test_size_of_tiles(data, name, rules):
    """And whether tiles are kept for the second pass or made again."""
    problem, size = data.draw(problems(name, rules)), data.draw(st.sampled_from([3, 5, 16]))
    for create in problem.losses:
        create["backend"] = "tiled"
        whole = outcome(create, problem)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiled, "TILE", size)
            patch.setattr(two_passes, "KEPT", 0)
            agree(outcome(create, problem), whole)


@with_rules(EVERY_LOSS, 6, 5)
@some
@given(data=st.data())
def test_anchors_taken_at_a_time(data, name, rules):
    """Losses and rules that must see all anchors at once are not cut, and are the same for that."""
    problem, most = data.draw(problems(name, rules)), data.draw(st.sampled_from([8, 4, 2, 16]))
    backend = data.draw(st.sampled_from(["dense", "tiled"]))
    for create in problem.losses:
        create["backend"] = backend
        whole = outcome(create, problem)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(arithmetic, "MOST_POSITIVES", most)
            agree(outcome(create, problem), whole)


@pytest.mark.parametrize("rule", DRAWING)
def test_draws_of_anchors_taken_at_a_time_without_ids(rule):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    loss = nearfar.losses.create("triplet", mining={"name": rule, "seed": 7})
    labels = torch.arange(12) // 3
    whole = loss(x, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "MOST_POSITIVES", 8)
        torch.testing.assert_close(loss(x, labels), whole)


@with_rules(EVERY_LOSS, 6, 6)
@some
@given(data=st.data())
def test_against_itself_as_candidates_with_ids(data, name, rules):
    """`within` is `between` a batch and itself, self-pairs left out by id; the gradient arrives on two sides.

    But a rule narrows the anchors of a candidate as each of them says, and in a batch as the candidate says.
    """
    problem = data.draw(problems(name, [None] if name in TWO_SIDED_LOSSES else rules))
    for create in problem.losses:
        if "self_positive" in create:
            create["self_positive"] = "never"  # there is no telling that the candidate is the anchor
        itself = against_itself(create, problem, torch.arange(len(problem.x)), problem.weights)
        agree(itself, outcome(create, problem))


@with_rules(ONE_SIDED, 6, 7)
@some
@given(data=st.data())
def test_a_weight_counts_the_anchor_that_often(data, name, rules):
    """Where an anchor's value is its own; what ranks the pairs of all anchors counts those of a copy too."""
    problem = data.draw(problems(name, rules, by_batch=False))
    n = len(problem.x)
    # Of anchors that weigh nothing the quadruplet loss still takes the far ends of its negative pairs.
    least = 1 if name == "quadruplet" else 0
    times = torch.tensor(data.draw(st.lists(st.integers(least, 3), min_size=n, max_size=n)))
    every = torch.arange(n)
    for create in problem.losses:
        repeated = against_itself(create, problem, every.repeat_interleave(times), None)
        agree(against_itself(create, problem, every, times), repeated)
