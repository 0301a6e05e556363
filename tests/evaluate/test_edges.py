"""Verification and re-ranking where little can be said: a defined number, or one sentence."""

import json
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import nearfar.evaluate as ev
from nearfar.errors import NearfarError

ROWS = np.random.default_rng(0).standard_normal((12, 8))


def test_equal_scores() -> None:
    result = ev.verification([0.5] * 6, [1, 0, 1, 0, 1, 0], far=(0.5, 1.0))
    assert (result.auc, result.eer, result.best_accuracy) == (0.5, 0.5, 0.5)
    assert (result.tar_at_far, result.actual_far) == ({0.5: 0.0, 1.0: 1.0}, {0.5: 0.0, 1.0: 1.0})


@pytest.mark.parametrize("scores", [[0.1, 0.9], [0.5, 0.5], [-3.0, -3.0], [0.0, 0.0]])
def test_a_threshold_that_accepts_nothing_is_a_number_in_json(scores) -> None:
    result = ev.verification(scores, [1, 0], far=(0.0,))
    assert result.threshold_at_far[0.0] == np.inf
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    threshold = values["threshold_at_far"]["0.0"]
    assert threshold > max(scores)
    assert_allclose(threshold, max(scores), atol=1e-12)
    assert not (np.array(scores) >= values["best_threshold"]).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ev.verification([0.5, 0.1], [1, 1]), "2 genuine and 0 impostor pairs"),
        (lambda: ev.verification([0.5, 0.1], [0, 0]), "0 genuine and 2 impostor pairs"),
        (lambda: ev.verification([], []), "one truth value for each pair"),
        (lambda: ev.verification([0.5, np.inf], [1, 0]), "scores has 1 infinite values of 2"),
        (lambda: ev.verification([np.nan, np.nan], [1, 0]), "scores has 2 NaN values of 2"),
        (lambda: ev.verification([np.nan, -np.inf], [1, 0]), "scores has 2 NaN or infinite values of 2"),
        (lambda: ev.verification([0.5, 0.1], [1, 0], far=0.1), "far is 0.1; give targets"),
        (lambda: ev.verification([0.5, 0.1], [1, 0], far=[np.nan]), "far has nan"),
        (lambda: ev.verification([0.5, 0.1], [1, 2]), "one truth value for each pair"),
        (lambda: ev.fold_accuracy(ROWS[:1], ROWS[:1], [1]), "there is one pair"),
        (lambda: ev.fold_accuracy(ROWS, ROWS, [1] * 12, folds=13), "folds is 13"),
        (lambda: ev.fold_accuracy(ROWS, ROWS, [1] * 12, thresholds=[]), "thresholds is empty"),
        (lambda: ev.fold_accuracy(ROWS, ROWS, [1] * 12, thresholds=[np.nan]), "thresholds has 1 NaN"),
        (lambda: ev.fold_accuracy(ROWS, ROWS[:, :2], [1] * 12), "give one row of each for every pair"),
        (lambda: ev.expand_queries(ROWS, k=0), "k is 0"),
        (lambda: ev.expand_queries(ROWS, alpha=np.nan), "alpha is nan"),
        (lambda: ev.expand_queries(ROWS, alpha="a"), "alpha is 'a'"),
        (lambda: ev.KReciprocal(ROWS, k1=2.5), r"k1 is 2\.5"),
        (lambda: ev.KReciprocal(ROWS, k2=0), "k2 is 0"),
        (lambda: ev.KReciprocal(ROWS, weight=np.nan), "weight is nan"),
        (lambda: ev.KReciprocal(ROWS, weight="a"), "weight is 'a'"),
        (lambda: ev.KReciprocal(ROWS, ROWS[:, :3]), "8 dimensions and the gallery has 3"),
        (lambda: ev.Whitening(ROWS[:1]), "all equal"),
        (lambda: ev.Whitening(np.ones((5, 3))), "all equal"),
        (lambda: ev.Whitening(ROWS, 9), "dim is 9"),
        (lambda: ev.Whitening(ROWS, shrinkage=2), "shrinkage is 2"),
        (lambda: ev.average_views([]), "of nothing"),
        (lambda: ev.average_views([ROWS, ROWS[:3]]), r"\(12, 8\), \(3, 8\)"),
        (lambda: ev.concatenate_models([ROWS, ROWS[:3]]), r"\(12, 8\), \(3, 8\)"),
    ],
)
def test_what_is_refused(call, message) -> None:
    with pytest.raises(NearfarError, match=message):
        call()


def test_scores_of_every_kind() -> None:
    scores, same = np.array([0.5, 0.125, 0.75, 0.25]), np.array([1, 0, 1, 1])
    wanted = ev.verification(scores, same, far=(0.0, 1.0)).to_dict()
    forms = [
        scores.tolist(),
        torch.from_numpy(scores)[:, None],
        scores.astype(np.float16),
        torch.tensor(scores).bfloat16().requires_grad_(),
    ]
    for form in forms:
        for truth in (same.astype(bool), torch.from_numpy(same)[:, None], same.tolist()):
            assert ev.verification(form, truth, far=np.array([0.0, 1.0])).to_dict() == wanted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ev.verification([1e308, -1e308], [1, 0], far=(0.0,)).auc == 1.0


def test_folds_of_long_rows() -> None:
    same = np.arange(12) > 5
    other = ROWS + np.where(same, 0, 1)[:, None]
    limits = np.array([0.0, 0.5, 2.0, 9.0])
    plain = ev.fold_accuracy(ROWS, other, same, folds=3, thresholds=limits)
    scaled = ev.fold_accuracy(ROWS * 2.0**70, other * 2.0**70, same, folds=3, thresholds=limits * 2.0**140)
    assert plain.accuracy == 1.0
    assert_array_equal(plain.per_fold, scaled.per_fold)


def test_more_neighbours_than_there_are() -> None:
    assert_array_equal(ev.expand_queries(ROWS, k=10**6), ev.expand_queries(ROWS, k=11))
    assert_array_equal(ev.expand_queries(ROWS, ROWS[:2], k=50), ev.expand_queries(ROWS, ROWS[:2], k=2))
    assert_array_equal(ev.augment_gallery(ROWS, k=50), ev.augment_gallery(ROWS, k=11))
    everything = ev.k_reciprocal(ROWS[:4], ROWS[4:], k1=11, k2=12)
    assert_array_equal(ev.k_reciprocal(ROWS[:4], ROWS[4:], k1=500, k2=12), everything)
    assert ev.k_reciprocal(ROWS[:1]).tolist() == [[0.0]]


@pytest.mark.parametrize("rows", [np.tile(ROWS[:1], (6, 1)), np.zeros((6, 3)), np.ones((6, 7))])
def test_re_ranking_of_a_collapsed_model(rows) -> None:
    """All are equally near: no rounding noise is made long by the division by the largest distance."""
    assert_array_equal(ev.k_reciprocal(rows, k1=3, k2=2), ev.k_reciprocal(np.ones((6, 1)), k1=3, k2=2))
    whole = ev.k_reciprocal(rows, k1=5, k2=1)
    assert_allclose(whole, np.zeros((6, 6)), atol=1e-15)


def test_distances_made_row_by_row_are_looked_at() -> None:
    class Rows:
        shape = (3, 3)

        def __init__(self, value):
            self.value = value

        def rows(self, queries):
            return (
                np.full((len(queries), 3), self.value)
                if self.value is not None
                else np.zeros((len(queries), 2))
            )

    for value in (np.nan, np.inf, None):
        with pytest.raises(NearfarError, match=r"distances\.rows gave shape"):
            ev.retrieval_by_distance(Rows(value), [0, 0, 0])
