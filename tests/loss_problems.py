"""Batches, and losses to give them to, as Hypothesis draws them: several rules in each, the measures in turns."""

from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from nearfar.inputs import Labels
from nearfar.similarity import Measure, Relevance

MEASURES = get_args(Measure)
REDUCTIONS = [None, "mean", "mean_valid", "mean_terms", "mean_active", "sum"]
# What a loss's settings switch on, beside the defaults.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "circle": [{"frozen": True}, {"temperature": 1.0}],
    "contrastive": [
        {"positive_margin": 0.9, "negative_margin": 0.1, "squared": True},
        {"positive_margin": 0.9, "negative_margin": 0.1, "whole": True},
        {"balance": "batch"},
        {"balance": "anchor"},
    ],
    "fast_ap": [{"bins": 3}, {"bins": 40}],
    "histogram": [{"bins": 7}],
    "lifted_structure_generalized": [{"variant": "smooth", "alpha": 2.0, "beta": 40.0}],
    "margin": [{"per": "triplet", "nu": 0.1}, {"per": "triplet", "count": "either"}, {"nu": 0.1}],
    "nca": [{"neighbours": 1}, {"neighbours": 3}, {"neighbours": 3, "inverted": True}],
    "npair": [{"l2": 0.1}],
    "npair_mined": [{"orphan_repulsion": True}, {"gradient": "caffe"}],
    "quadruplet": [{"margin": 0.5, "second_margin": 0.5}],
    "rank_hard": [{"negatives": 3}],
    "ranked_list": [{"positive_sharpness": 3.0}, {"frozen": True}],
    "recall_at_k": [{"out_of": "reachable"}, {"with_self": True}, {"ks": [1, 3], "temperature": 0.1}],
    "roadmap": [{"offset": 1.44}, {"step": 0.0, "calibration": 0.0}, {"bend": 0.3, "temperature": 0.1}],
    "smooth_ap": [{"temperature": 0.1}, {"with_self": True}],
    "triplet": [{"soft": True}, {"margin": 1.0}],
    "triplet_weighted": [{"soft": True}, {"eps": 1e-2}, {"self_positive": "alone"}],
}

methods = st.sampled_from(["all", "hard", "easy", "relative_hard", "relative_easy"])
over = st.sampled_from(["anchor", "batch"])
keep = st.sampled_from([2, 1, 5, 0.3, 0.5, 1.0])
shifts = st.sampled_from([0.0, 0.1, -0.3])
low, high = st.sampled_from([-0.6, -1.2, -2.5]), st.sampled_from([0.2, -0.1, 0.7])
few = st.sampled_from([2, 1, 5])
seeds = st.integers(0, 2**31)
# All that a rule may be told; what is not drawn is left to its default.
RULES: dict[str, dict[str, st.SearchStrategy]] = {
    "easy": {"keep_positives": st.just("all"), "keep_negatives": st.just("all")},
    "easy_positive": {"keep_negatives": st.just("hard")},
    "hard": {"keep_positives": st.just("all"), "keep_negatives": st.just("all")},
    "interval": {"below": high, "positives_above": low, "positives_below": high},
    "multi_similarity": {"epsilon": st.sampled_from([0.0, 1.0])},
    "relative": {
        "positive_method": methods,
        "negative_method": methods,
        "positive_over": over,
        "negative_over": over,
        "keep_positives": keep,
        "keep_negatives": keep,
        "positive_shift": shifts,
        "negative_shift": shifts,
        "ranking": st.just("caffe"),
        "negative_threshold": st.just("all"),
    },
    "semi_hard": {"margin": st.just(1.0), "otherwise": st.just("farthest")},
    "top_k": {"keep_negatives": few, "keep_positives": few},
    "distance_weighted": {"farthest": st.none()},
    "random": {"keep_negatives": few, "keep_positives": few},
}
NEEDED: dict[str, dict[str, st.SearchStrategy]] = {
    "interval": {"above": low},
    "distance_weighted": {"seed": seeds},
    "random": {"seed": seeds},
}
# They name a candidate by its place among an anchor's negatives: candidates must stay where they are.
DRAWING = ["distance_weighted", "random"]


def with_rules(names: list[str], every: int, turn: int) -> pytest.MarkDecorator:
    """Losses, and no rule or each ``every``-th, other ones than for the loss before; exhaustive: with all."""
    rules, told = [None, *RULES], []
    for place, name in enumerate(names):
        told.append(pytest.param(name, rules[(place + turn) % every :: every], id=name))
        told.append(pytest.param(name, rules, id=f"{name}, every rule", marks=pytest.mark.exhaustive))
    return pytest.mark.parametrize(("name", "rules"), told)


@dataclass(frozen=True)
class Problem:
    """Losses to create, and a batch to give them."""

    losses: list[dict[str, Any]]
    x: Tensor
    labels: Labels
    ids: Tensor | None
    weights: Tensor | None
    order: Tensor


@st.composite
def problems(draw, name, rules, by_batch=True):
    """Draw a batch, and settings of the loss with each of the rules.

    Args:
        by_batch: whether a rule may rank the pairs of all anchors together.
    """
    n = draw(st.sampled_from([9, 1, 2, 3, 5, 7, 12, 16]))
    generator = torch.Generator().manual_seed(draw(seeds))
    x = torch.randn(n, draw(st.sampled_from([7, 3])), generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        x = torch.nn.functional.normalize(x, dim=1)
    labels = draw(labels_of(n, generator))
    ids = draw(st.sampled_from([None, torch.randperm(n, generator=generator) + 100]))
    if ids is not None and n > 1 and draw(st.booleans()):
        # Two views of one image are of one class, where rows have classes.
        ids[1] = ids[0]
        if isinstance(labels, Tensor):
            labels[1] = labels[0]
    weights = torch.rand(n, generator=generator, dtype=torch.float64) if draw(st.booleans()) else None
    order = torch.randperm(n, generator=generator)
    variant = draw(st.sampled_from([{}, *VARIANTS.get(name, [])]))
    reduction = draw(st.sampled_from(REDUCTIONS))
    turn = draw(st.integers(0, len(MEASURES) - 1))
    losses = []
    for place, rule in enumerate(rules):
        measure = MEASURES[(place + turn) % len(MEASURES)]
        create = {"name": name, "similarity": measure, "reduction": reduction, **variant}
        if rule is not None:
            told = draw(st.fixed_dictionaries(NEEDED.get(rule, {}), optional=RULES[rule]))
            create["mining"] = {"name": rule, **told}
            if not by_batch:
                create["mining"] = {k: v for k, v in create["mining"].items() if v != "batch"}
        losses.append(create)
    return Problem(losses, x, labels, ids, weights, order)


@st.composite
def labels_of(draw, n, generator):
    """Draw classes, tags or a list of positive pairs."""
    kind = draw(st.sampled_from(["classes", "tags", "listed"]))
    if kind == "classes":
        return torch.randint(draw(st.sampled_from([4, 3, 2, 1])), (n,), generator=generator)
    if kind == "tags":
        return (torch.rand(n, 4, generator=generator) < 0.3).long()
    pairs = torch.randint(n, (draw(st.sampled_from([n, 2 * n, 0])), 2), generator=generator)
    # Both ways, so that the list says the same within a batch and between the batch and itself.
    return Relevance(torch.cat([pairs, pairs.flip(1)]))
