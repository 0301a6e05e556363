"""Means, intervals and half precision against loops over every query, with any exclusion and tie rule."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from nearfar.errors import NearfarError
from nearfar.evaluate import RepeatedIdWarning, TieWarning, retrieval
from nearfar.evaluate.metrics import AT_K, at_name
from ranking_oracle import of_query

KS = (1, 3, 11)  # 11 is beyond every gallery here
AT = {at_name(name, k): (name, k) for name in AT_K for k in KS}


def quietly(*arguments, **named):
    with warnings.catch_warnings():
        for kind in (TieWarning, RepeatedIdWarning):
            warnings.simplefilter("ignore", kind)
        return retrieval(*arguments, **named)


def average(values, classes, how):
    """The mean of some metric values, or of the means of their classes, one by one."""
    if how == "micro":
        return sum(values) / len(values)
    groups: dict[int, list[float]] = {}
    for value, name in zip(values, classes, strict=True):
        groups.setdefault(name, []).append(value)
    return sum(sum(group) / len(group) for group in groups.values()) / len(groups)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    ties=st.sampled_from(["index", "optimistic", "pessimistic", "expected"]),
    how=st.sampled_from(["micro", "macro"]),
    no_relevant=st.sampled_from(["skip", "zero"]),
    alone=st.booleans(),
    form=st.sampled_from(["labels", "bool", "coo", "torch"]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64, "bfloat16"]),
)
def test_means_of_every_kind(seed, ties, how, no_relevant, alone, form, dtype) -> None:
    generator = np.random.default_rng(seed)
    q = int(generator.integers(1, 7))
    g = q if alone else int(generator.integers(1, 7))
    left = generator.integers(-2, 3, (q, 2)).astype(np.float64)
    right = left if alone else generator.integers(-2, 3, (g, 2)).astype(np.float64)
    labels = generator.integers(0, 3, q)
    others = labels if alone else generator.integers(0, 4, g)
    junk = generator.random((q, g)) < 0.2
    relevant = labels[:, None] == others
    kept = ~junk & ~(np.eye(q, dtype=bool) if alone else np.zeros((q, g), bool))
    more = {}
    if form != "labels":
        relevant = generator.random((q, g)) < 0.4
        make = {
            "bool": lambda x: x,
            "coo": sparse.coo_matrix,
            "torch": lambda x: torch.from_numpy(x).to_sparse(),
        }[form]
        more["relevant"], junk = make(relevant), make(junk)
    elif not alone:
        more["gallery_labels"] = others
    scores = -((left[:, None] - right) ** 2).sum(axis=2)
    found = [of_query(list(scores[i]), list(relevant[i]), list(kept[i]), ties, KS) for i in range(q)]

    def typed(x):
        return torch.from_numpy(x).bfloat16() if dtype == "bfloat16" else x.astype(dtype)

    given = {"labels": labels, "junk": junk, "similarity": "euclidean", "ks": KS, "ties": ties} | more
    given |= {"average": how, "no_relevant": no_relevant, "gallery": None if alone else typed(right)}
    if no_relevant == "skip" and not any(found):
        with pytest.raises(NearfarError, match="none of the"):
            quietly(typed(left), **given)
        return
    result = quietly(typed(left), **given)
    assert (result.n_queries, result.n_skipped) == (q, found.count(None))
    counted = [i for i in range(q) if found[i] or no_relevant == "zero"]
    for name in result.per_query:
        values = [found[i][name] if found[i] else 0.0 for i in counted]
        expected = average(values, labels[counted].tolist(), how)
        whole, at = AT.get(name, (name, None))
        got = getattr(result, whole) if at is None else getattr(result, whole)[at]
        assert_allclose(got, expected, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("how", ["micro", "macro"])
@pytest.mark.parametrize("no_relevant", ["skip", "zero"])
@pytest.mark.parametrize("resample", ["class", "query"])
def test_intervals_are_percentiles_of_means_drawn_anew(how, no_relevant, resample) -> None:
    if (how, resample) == ("macro", "query"):
        with pytest.raises(NearfarError, match="use resample='class'"):
            retrieval(np.eye(4), [0, 0, 1, 1], average=how, resample=resample, bootstrap=3)
        return
    generator = np.random.default_rng(3)
    x, labels = generator.standard_normal((40, 4)), np.append(generator.integers(0, 9, 38), [20, 21])
    result = quietly(x, labels, average=how, no_relevant=no_relevant, resample=resample, bootstrap=60, seed=5)
    values = result.per_query["map"]
    counted = ~np.isnan(values)
    assert counted.sum() == (40 if no_relevant == "zero" else 40 - result.n_skipped)
    values, classes = values[counted], labels[counted]
    units = (
        [np.flatnonzero(classes == c) for c in np.unique(classes)]
        if resample == "class"
        else [[i] for i in range(len(values))]
    )
    draw, means = np.random.default_rng(5), []
    for _ in range(60):
        drawn = [units[i] for i in draw.integers(len(units), size=len(units))]
        if how == "macro":
            means.append(np.mean([values[unit].mean() for unit in drawn]))
        else:
            means.append(np.concatenate([values[unit] for unit in drawn]).mean())
    assert_allclose(result.intervals["map"], np.percentile(means, [2.5, 97.5]), rtol=1e-12)


def test_a_gallery_without_the_class_of_a_query() -> None:
    x = np.random.default_rng(0).standard_normal((6, 3))
    given = {"gallery": x, "gallery_labels": [0, 0, 1, 1, 2, 2]}
    skip = retrieval(x[:3], [0, 1, 7], **given)
    assert (skip.n_queries, skip.n_skipped) == (3, 1)
    assert np.isnan(skip.per_query["map"][2])
    zero = retrieval(x[:3], [0, 1, 7], no_relevant="zero", **given)
    assert_allclose(zero.map, skip.map * 2 / 3)
    assert_allclose(zero.cmc, skip.cmc * 2 / 3)
    with pytest.raises(NearfarError, match="none of the 3 queries"):
        retrieval(x[:3], [7, 8, 9], **given)


def test_a_query_with_no_candidate_left() -> None:
    x, labels = np.random.default_rng(1).standard_normal((4, 3)), np.array([0, 0, 1, 1])
    junk = np.zeros((4, 4), bool)
    junk[0] = True
    result = retrieval(x, labels, junk=junk)
    assert (result.n_skipped, result.relevant_per_query.tolist()) == (1, [0, 1, 1, 1])
    same = retrieval(x, labels, junk=junk, ties="expected")
    assert_array_equal(same.per_query["map"], result.per_query["map"])
