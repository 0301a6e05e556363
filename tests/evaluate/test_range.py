"""Rows of every length: none leaves float64's range, and no rounding but a pair's own decides its rank."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from nearfar.errors import NearfarError
from nearfar.evaluate import (
    KReciprocal,
    TieWarning,
    Whitening,
    clustering,
    expand_queries,
    neighbours,
    neighbours_across_ranks,
    retrieval,
    retrieval_by_distance,
    space,
)

SIMILARITIES = ["cosine", "dot", "euclidean", "squared_euclidean"]
SCALES = {
    np.float16: [300.0, 2.0**-10],
    np.float32: [1e30, 1e19, 1e-19, 1e-30],
    np.float64: [1e300, 1e200, 1e120, 1e-120, 1e-200, 1e-290],
}
CASES = [(dtype, scale) for dtype, scales in SCALES.items() for scale in scales]
LABELS = np.arange(36) // 3


def rows(seed=0, n=36, dim=5):
    generator = np.random.default_rng(seed)
    return np.round(generator.standard_normal((n, dim)), 2)


def scaled(dtype, scale):
    """Rows by a power of two near ``scale``: exact in every type, so that ranks are those of the plain rows."""
    return (rows().astype(np.float16) * 2.0 ** np.round(np.log2(scale))).astype(dtype)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize(("dtype", "scale"), CASES, ids=str)
def test_metrics_do_not_hang_on_length(dtype, scale, similarity) -> None:
    x = scaled(dtype, scale)
    plain = x.astype(np.float64) / 2.0 ** np.round(np.log2(scale))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, other = (retrieval(each, LABELS, similarity=similarity) for each in (plain, x))
        both = retrieval(x[::2], LABELS[::2], gallery=x, gallery_labels=LABELS, similarity=similarity)
    for name, values in one.per_query.items():
        assert_array_equal(values, other.per_query[name], err_msg=name)
    assert both.recall_at_k[1] == (1.0 if similarity != "dot" else both.recall_at_k[1])
    found, wanted = (neighbours_quietly(each, k=7, similarity=similarity).ids for each in (x, plain))
    assert_array_equal(found, wanted)


def neighbours_quietly(*arguments, **named):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*beyond float32")
        return neighbours(*arguments, **named)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_each_side_has_its_own_length(similarity) -> None:
    x, y = rows(1), rows(2)
    for left, right in ((1e200, 1e-200), (1e-200, 1e-200), (1e200, 1.0)):
        if "euclidean" in similarity and left != right:
            continue
        found = neighbours_quietly(x * left, y * right, 5, similarity=similarity)
        assert_array_equal(found.ids, neighbours(x, y, 5, similarity=similarity).ids)


def test_a_row_of_any_length_among_the_others() -> None:
    x = rows(3)
    mixed = x * np.float64(10.0) ** np.random.default_rng(0).integers(-300, 300, (36, 1))
    assert_array_equal(neighbours(mixed, k=4).ids, neighbours(x, k=4).ids)
    assert_array_equal(neighbours_across_ranks(mixed, k=4).ids, neighbours(x, k=4).ids)
    for similarity in ("dot", "euclidean", "squared_euclidean"):
        with pytest.raises(NearfarError, match=r"row.* so long that"):
            neighbours(np.concatenate([x, np.full((1, 5), 1e250)]), k=4, similarity=similarity)
        with pytest.raises(NearfarError, match=r"row.* so long that"):
            retrieval(
                np.concatenate([x, np.full((1, 5), 1e250)]), np.append(LABELS, 0), similarity=similarity
            )


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("length", [1e3, 1e6, 1e9, 1e15, 1e100])
def test_one_long_row_does_not_make_the_others_tie(length, similarity) -> None:
    x = rows(4).astype(np.float32 if length < 1e30 else np.float64)
    far = np.full((1, 5), -length, x.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TieWarning)
        result = retrieval(np.concatenate([x, far]), np.append(LABELS, 99), similarity=similarity)
    found = neighbours_quietly(x, np.concatenate([far, x]), 6, similarity=similarity)
    exact = oracle(x, np.concatenate([far, x]), similarity)
    assert_array_equal(found.ids, np.argsort(-exact, axis=1, kind="stable")[:, :6])
    alone = retrieval(x, LABELS, similarity=similarity)
    if similarity != "dot":
        assert result.map == alone.map


def oracle(queries, gallery, similarity):
    """Scores summed term by term in the longest float there is."""
    left, right = queries.astype(np.longdouble)[:, None], gallery.astype(np.longdouble)
    if similarity == "dot":
        return (left * right).sum(axis=2)
    return -((left - right) ** 2).sum(axis=2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("similarity", ["euclidean", "squared_euclidean"])
@pytest.mark.parametrize("centres", [1, 2, 6])
def test_small_differences_far_from_the_origin(centres, similarity, dtype) -> None:
    """Clusters 1e3 from the origin and from each other, a thousandth wide: |a|² + |b|² - 2ab would be noise."""
    generator = np.random.default_rng(centres)
    middle = 1e3 * generator.standard_normal((centres, 8))
    x = (middle[generator.integers(0, centres, 90)] + 1e-3 * generator.standard_normal((90, 8))).astype(dtype)
    exact = oracle(x, x, similarity)
    given_distances = (-exact).astype(np.float64)
    np.fill_diagonal(exact, -np.inf)
    wanted = np.argsort(-exact, axis=1, kind="stable")[:, :12]
    assert_array_equal(neighbours(x, k=12, similarity=similarity).ids, wanted)
    assert_array_equal(neighbours(x, k=12, similarity=similarity, tile=7).ids, wanted)
    labels = np.arange(90) // 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TieWarning)  # float32 rows are so near that some distances are equal
        result = retrieval(x, labels, similarity=similarity)
        by_distance = retrieval_by_distance(given_distances, labels)
    assert result.to_dict() | {"settings": {}} == by_distance.to_dict() | {"settings": {}}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    power=st.integers(-300, 300),
    spread=st.integers(0, 12),
    similarity=st.sampled_from(SIMILARITIES),
    ties=st.sampled_from(["index", "optimistic", "pessimistic", "expected"]),
)
@example(
    seed=39916800, power=0, spread=0, similarity="dot", ties="expected"
)  # chances that add up to 1 and a bit
def test_no_metric_leaves_zero_to_one(seed, power, spread, similarity, ties) -> None:
    generator = np.random.default_rng(seed)
    x = generator.integers(-3, 4, (20, 3)) * 10.0 ** np.minimum(
        power + generator.integers(0, spread + 1, (20, 1)), 307
    )
    labels = np.append(generator.integers(0, 6, 18), [0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TieWarning)
        result = retrieval(x, labels, similarity=similarity, ties=ties, bootstrap=5)
    for name, values in result.per_query.items():
        some = values[~np.isnan(values)]
        assert ((some >= 0) & (some <= 1)).all(), name
        assert np.isnan(values).sum() == result.n_skipped
    assert all(0 <= low <= high <= 1 for low, high in result.intervals.values())
    assert ((result.cmc >= 0) & (result.cmc <= 1)).all()


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e300])
def test_the_rest_of_evaluation(scale) -> None:
    x, scale = rows(5), 2.0 ** np.round(np.log2(scale))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, other = space(x, LABELS), space(x * scale, LABELS)
        assert_array_equal(one.singular_values * scale, other.singular_values)
        for name in (
            "intra",
            "inter",
            "uniformity",
            "silhouette_euclidean",
            "spectral_decay",
            "effective_rank",
        ):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12, err_msg=name)
        assert_array_equal(expand_queries(x, k=3), expand_queries(x * scale, k=3))
        assert_array_equal(KReciprocal(x).distances(), KReciprocal(x * scale).distances())
        assert_array_equal(
            clustering(x, LABELS).kmeans.clusters, clustering(x * scale, LABELS).kmeans.clusters
        )
        np.testing.assert_allclose(Whitening(x)(x), Whitening(x * scale)(x * scale), rtol=1e-6, atol=1e-9)


def test_integers_and_truth_values_are_numbers() -> None:
    whole = np.random.default_rng(6).integers(-5, 6, (30, 4))
    large = whole + 2**24 + 1  # beyond what float32 holds
    labels = np.arange(30) // 3
    for x in (whole, large, whole > 0):
        wanted = neighbours(x.astype(np.float64), k=5, similarity="euclidean")
        for given_rows in (x, torch.from_numpy(x), x.tolist()):
            assert_array_equal(neighbours(given_rows, k=5, similarity="euclidean").ids, wanted.ids)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TieWarning)
                assert retrieval(given_rows, labels).map == retrieval(x.astype(float), labels).map


def test_similarities_beyond_float32_are_said() -> None:
    x = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]]) * 1e30
    with pytest.warns(UserWarning, match="beyond float32"):
        found = neighbours(x, k=2, similarity="dot")
    assert (found.similarity == np.finfo(np.float32).max).all()
    with pytest.warns(UserWarning, match="beyond float32"):
        found = neighbours(x, k=2, similarity="squared_euclidean")
    assert (found.similarity == -np.finfo(np.float32).max).all()
