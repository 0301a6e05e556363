"""Every loss with every rule: a memory is the concatenation of its candidates, in any order, on any backend."""

from typing import Any

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor

import nearfar
from loss_problems import DRAWING, Problem, problems, seeds, with_rules
from nearfar.criterion import arithmetic
from nearfar.errors import NearfarError
from nearfar.similarity import Relevance
from nearfar.similarity.tiled import block as tiled
from nearfar.similarity.tiled import layout
from problems import PAIR_LOSSES, TRIPLET_LOSSES, TWO_SIDED_LOSSES, WHOLE_BATCH_LOSSES

pytestmark = pytest.mark.filterwarnings("ignore:this batch has no positive pair")

EVERY_LOSS = PAIR_LOSSES + TRIPLET_LOSSES + TWO_SIDED_LOSSES + WHOLE_BATCH_LOSSES
some = settings(max_examples=2, deadline=None)

Outcome = tuple[Tensor, ...] | None
Past = tuple[Tensor, Tensor, Tensor]


@st.composite
def pasts(draw, problem: Problem) -> Past:
    """Draw what a memory holds: rows, labels of the batch's kind, ids of which some are the batch's."""
    m = draw(st.sampled_from([9, 1, 3, 24]))
    generator = torch.Generator().manual_seed(draw(seeds) + 2**31)  # other rows than the batch's
    x = torch.randn(m, problem.x.shape[1], generator=generator, dtype=torch.float64)
    row = torch.randint(len(problem.x), (m,), generator=generator)
    labels = problem.labels
    labels = torch.zeros(m).long() if isinstance(labels, Relevance) else labels[row]
    if isinstance(problem.labels, Tensor) and labels.ndim == 1:
        labels = torch.where(torch.rand(m, generator=generator) < 0.3, 7, labels)
    ids = torch.arange(m) + 1000
    if problem.ids is not None:
        again = torch.rand(m, generator=generator) < 0.2
        ids = torch.where(again, problem.ids[row], ids)
        if labels.ndim == 1:
            labels = torch.where(again, problem.labels[row], labels)
        else:
            labels = torch.where(again[:, None], problem.labels[row], labels)
    return x, labels, ids


def remembered(create: dict[str, Any], problem: Problem, past: Past) -> Outcome:
    """The loss with a memory."""
    x, labels, ids = past
    memory = nearfar.CrossBatchMemory(len(x))
    memory.add(x, labels, None if problem.ids is None else ids)
    return computed(create, problem, ids=problem.ids, memory=memory)


def by_definition(create: dict[str, Any], problem: Problem, past: Past) -> Outcome:
    """The same against the batch and the memory as candidates, in float64, the memory without gradient."""
    x, labels, ids = past
    own = torch.arange(len(problem.x)) if problem.ids is None else problem.ids
    create = {**create, "backend": "reference"}
    every = torch.cat([problem.labels, labels])
    return computed(create, problem, x, every, ids=own, candidate_ids=torch.cat([own, ids]))


def computed(
    create: dict[str, Any], problem: Problem, past: Tensor | None = None, labels: Tensor | None = None, **call
) -> Outcome:
    note(str(create))
    x = problem.x.clone().requires_grad_()
    candidates = () if past is None else (torch.cat([x, past]), labels)
    try:
        loss = nearfar.losses.create(**create)
        value = loss(x, problem.labels, *candidates, weights=problem.weights, **call)
    except NearfarError:
        return None
    grads = torch.autograd.grad(value, [x, *loss.learned.values()], materialize_grads=True)
    return value.detach(), *grads


def agree(one: Outcome, other: Outcome) -> None:
    if one is None or other is None:
        assert one is other
        return
    for a, b in zip(one, other, strict=True):
        relative, absolute = (1e-4, 1e-5) if a.dtype == torch.float32 else (1e-8, 1e-10)
        size = max(1.0, b.abs().max().item()) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=relative, atol=size * absolute)


def draw_problem(data, name: str, rules: list[str | None]) -> tuple[Problem, Past]:
    """Draw a problem with classes or tags, and with each of the rules."""
    problem = data.draw(problems(name, rules).filter(lambda problem: isinstance(problem.labels, Tensor)))
    for create in problem.losses:
        if "self_positive" in create:
            create["self_positive"] = "never"  # candidates do not say that one of them is the anchor
    return problem, data.draw(pasts(problem))


@with_rules(EVERY_LOSS, 9, 0)
@some
@given(data=st.data())
def test_memory_is_its_definition(data, name, rules):
    problem, past = draw_problem(data, name, rules)
    for create in problem.losses:
        expected = by_definition(create, problem, past)
        for backend in ("tiled", "dense", "reference"):
            agree(remembered({**create, "backend": backend}, problem, past), expected)


@with_rules(EVERY_LOSS, 9, 1)
@some
@given(data=st.data())
def test_tiles_and_lanes_play_no_part(data, name, rules):
    problem, past = draw_problem(data, name, rules)
    tile, widest = data.draw(st.sampled_from([(3, 4), (5, 7), (16, 3), (512, 5)]))
    for create in problem.losses:
        create["backend"] = "tiled"
        whole = remembered(create, problem, past)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiled, "TILE", tile)
            patch.setattr(layout, "WIDEST", widest)
            agree(remembered(create, problem, past), whole)


@with_rules(EVERY_LOSS, 9, 2)
@some
@given(data=st.data())
def test_order_of_slots_plays_no_part(data, name, rules):
    problem, past = draw_problem(data, name, [rule for rule in rules if rule not in DRAWING])
    order = torch.randperm(len(past[0]), generator=torch.Generator().manual_seed(data.draw(seeds)))
    backend = data.draw(st.sampled_from(["dense", "tiled"]))
    for create in problem.losses:
        create["backend"] = backend
        shuffled = remembered(create, problem, (past[0][order], past[1][order], past[2][order]))
        agree(shuffled, remembered(create, problem, past))


@with_rules(EVERY_LOSS, 9, 3)
@some
@given(data=st.data())
def test_anchors_taken_at_a_time(data, name, rules):
    problem, past = draw_problem(data, name, rules)
    most, backend = data.draw(st.sampled_from([8, 2, 16])), data.draw(st.sampled_from(["dense", "tiled"]))
    for create in problem.losses:
        create["backend"] = backend
        whole = remembered(create, problem, past)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(arithmetic, "MOST_POSITIVES", most)
            agree(remembered(create, problem, past), whole)
