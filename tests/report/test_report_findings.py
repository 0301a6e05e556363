"""What the report finds among the pictures, against loops and hand-worked cases."""

import math

import numpy as np
import pytest

from nearfar.report.map import lay_out
from nearfar.report.overlap import count_pairs, measure, sample_pairs
from nearfar.report.queries import (
    best_median_worst,
    confusions,
    margins,
    nearest,
    one_a_class,
    rows_of,
    strip_queries,
    suspects,
    twins,
)


def unit(n: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


LABELS = np.array([0, 0, 1, 1, 1, 2, 3, 3, 3, 3], np.int64)


def test_margins_and_neighbours_against_loops():
    embeddings = unit(10, 5)
    similarity = embeddings.astype(np.float64) @ embeddings.T.astype(np.float64)
    found = margins(embeddings, LABELS)
    ids, values = nearest(embeddings, 4)
    for query in range(10):
        others = [i for i in range(10) if i != query]
        same = [similarity[query, i] for i in others if LABELS[i] == LABELS[query]]
        different = [similarity[query, i] for i in others if LABELS[i] != LABELS[query]]
        assert found.positive[query] == pytest.approx(max(same, default=-np.inf), abs=1e-5)
        assert found.negative[query] == pytest.approx(max(different), abs=1e-5)
        order = sorted(others, key=lambda i: -similarity[query, i])[:4]
        assert ids[query].tolist() == order
        np.testing.assert_allclose(values[query], similarity[query, order], atol=1e-5)
    assert found.answerable.tolist() == [True] * 5 + [False] + [True] * 4
    (row,) = rows_of(embeddings, LABELS, [2], 3)
    assert row.neighbours == ids[2][:3].tolist()
    assert row.right == [bool(LABELS[i] == 1) for i in ids[2][:3]]


def test_best_median_and_worst_are_ordered_and_apart():
    embeddings, labels = unit(60, 8), np.repeat(np.arange(12), 5)
    found = margins(embeddings, labels)
    groups = best_median_worst(found, labels, 4)
    means = [found.margin[groups[name]].mean() for name in ("best", "median", "worst")]
    assert means[0] > means[1] > means[2]
    assert len({*groups["best"], *groups["median"], *groups["worst"]}) == 12
    assert groups["best"][0] == found.margin.argmax()
    assert groups["worst"][0] == found.margin.argmin()


@pytest.mark.parametrize(("n", "right_count"), [(100, 83), (100, 0), (100, 100), (7, 3), (2, 1), (1, 1)])
def test_the_strip_keeps_the_true_proportion(n, right_count):
    right = np.arange(n) < right_count
    chosen = strip_queries(np.ones(n, bool), right, np.arange(n), seed=0)
    assert len(chosen) == len(set(chosen)) == min(6, n)
    assert abs(right[chosen].sum() - len(chosen) * right_count / n) <= 0.5
    assert chosen == strip_queries(np.ones(n, bool), right, np.arange(n), seed=0)


def test_one_a_class_takes_other_classes_first():
    assert one_a_class([0, 1, 2, 5, 6], LABELS, 3) == [0, 2, 5]
    assert one_a_class([0, 1], LABELS, 5) == [0, 1]


def test_confusions_count_both_ways():
    labels = np.array([0, 0, 1, 1, 2])
    ids = np.array([[2, 1], [0, 2], [0, 3], [2, 0], [0, 1]])
    similarity = np.array([[0.9, 0], [0.8, 0], [0.7, 0], [0.6, 0], [0.5, 0]], np.float32)
    answerable = np.array([True, True, True, True, False])
    (pair,) = confusions(ids, similarity, labels, answerable)
    assert pair.classes == (0, 1)
    assert (pair.count, pair.queries, pair.example) == (2, 4, (0, 2))


def test_a_wrong_label_is_suspected():
    # Five pictures at one place, the last of them under another label.
    embeddings = np.eye(2, dtype=np.float32)[[0] * 5 + [1] * 5]
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    ids, similarity = nearest(embeddings, 5)
    assert [twin.first for twin in suspects(ids, similarity, labels)] == [4]


def test_twins_are_told_once_and_nearest_first():
    rows = unit(6, 8)
    rows[4], rows[5] = rows[0], rows[1]
    found = twins(rows, rows, lambda block, n: np.arange(n)[None, :] > block[:, None], 0.99)
    assert {(twin.first, twin.second) for twin in found} == {(0, 4), (1, 5)}


def test_all_pairs_are_used_when_they_are_few():
    embeddings = unit(10, 5)
    positives, negatives = sample_pairs(embeddings, LABELS, seed=0)
    similarity = embeddings @ embeddings.T
    same = [similarity[i, j] for i in range(10) for j in range(i + 1, 10) if LABELS[i] == LABELS[j]]
    assert count_pairs(LABELS) == (len(positives), len(negatives)) == (10, 35)
    np.testing.assert_allclose(np.sort(positives), np.sort(same), rtol=1e-6)


def test_many_pairs_are_sampled_fairly():
    # Similarity tells the class: rows of class c are e_c, so a positive pair is 1 and a negative one 0.
    labels = np.repeat(np.arange(4), [10, 20, 30, 40])
    embeddings = np.eye(4, dtype=np.float32)[labels]
    positives, negatives = sample_pairs(embeddings, labels, seed=0, limit=500)
    assert len(positives) == 500
    assert (positives == 1).all()
    assert (negatives == 0).all()
    weighted = np.array([0.1, 0.2, 0.3, 0.4], np.float32)[labels][:, None]
    values = sample_pairs(weighted, labels, seed=0, limit=1000)[0]
    pairs = np.array([10 * 9, 20 * 19, 30 * 29, 40 * 39])
    assert values.mean() == pytest.approx(
        (pairs * np.array([0.01, 0.04, 0.09, 0.16])).sum() / pairs.sum(), abs=0.006
    )


def test_equal_error_by_hand():
    # Angles on a circle: the pairs of a class are 0, 60 and 60 degrees apart, those of different ones 90 and more.
    angles = np.radians([0, 60, 180, 240, 150])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = measure(rows, np.array([0, 0, 1, 1, 2]))
    # Positives 0.5, 0.5; negatives 0.87 (30 degrees), 0, -0.87 and below: one in eight is as near as a positive.
    assert (found.positive_pairs, found.negative_pairs) == (2, 8)
    assert found.threshold == pytest.approx(0.5, abs=1e-6)
    assert found.equal_error == pytest.approx(0.125)
    assert found.auc == pytest.approx(7 / 8)


def test_overlap_of_separate_and_of_equal_hills():
    labels = np.repeat(np.arange(3), 4)
    apart = measure(np.eye(3, dtype=np.float32)[labels], labels)
    assert apart.overlap == 0
    assert apart.equal_error == 0
    assert (apart.positive_mean, apart.negative_mean) == (1.0, 0.0)
    assert apart.d_prime is not None
    assert math.isnan(apart.d_prime)
    collapsed = measure(np.ones((12, 1), np.float32), labels)
    assert collapsed.overlap == pytest.approx(1)
    assert sum(collapsed.positives) == pytest.approx(1)


def test_d_prime_of_known_hills():
    rows = unit(400, 3)
    found = measure(rows, np.arange(400) % 2)
    assert abs(found.d_prime) < 0.1
    assert found.overlap > 0.9
    assert found.all_positive_pairs + found.all_negative_pairs == 400 * 399 // 2


def test_no_pairs_of_a_kind():
    assert measure(unit(4, 3), np.zeros(4, np.int64)) is None
    assert measure(unit(4, 3), np.arange(4)) is None


@pytest.mark.parametrize("n", [1, 2, 9, 40])
def test_the_map_is_in_its_square_and_repeats(n):
    rows = unit(n, 6)
    first, second = lay_out(rows, seed=5), lay_out(rows, seed=5)
    np.testing.assert_array_equal(first.places, second.places)
    assert first.places.shape == (n, 2)
    assert np.isfinite(first.places).all()
    assert first.places.min() >= -1e-6
    assert first.places.max() <= 1 + 1e-6
    assert not first.sampled


def test_the_map_of_a_collapsed_model_and_of_one_dimension():
    assert np.isfinite(lay_out(np.ones((20, 4), np.float32), seed=0).places).all()
    assert np.isfinite(lay_out(np.linspace(-1, 1, 20, dtype=np.float32)[:, None], seed=0).places).all()


def test_a_large_map_is_sampled_and_says_so():
    layout = lay_out(unit(80, 60), seed=0, limit=50)
    assert len(layout.rows) == len(set(layout.rows.tolist())) == 50
    assert layout.sampled
    assert layout.method == "PCA to 50 dimensions, then t-SNE of 50 of 80 embeddings, perplexity 16, seed 0"


def test_the_map_keeps_clusters_together():
    labels = np.repeat(np.arange(4), 15)
    rows = np.eye(4, dtype=np.float32)[labels] + 0.05 * unit(60, 4)
    places = lay_out(rows.astype(np.float32), seed=0).places
    far = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(far, np.inf)
    assert (labels[far.argmin(axis=1)] == labels).all()
