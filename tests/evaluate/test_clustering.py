"""k-means is scikit-learn's; agreement at its edges."""

import json
import sys
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import metrics as sklearn_metrics
from sklearn.cluster import KMeans

from nearfar.errors import MissingExtra, NearfarError
from nearfar.evaluate import agreement, clustering, kmeans


def clustered(n=400, classes=40, dim=16, spread=0.9, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = generator.standard_normal((classes, dim))
    return (centres[labels] + spread * generator.standard_normal((n, dim))).astype(np.float32), labels


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clusters_are_those_of_scikit_learn(seed) -> None:
    rows, labels = clustered(seed=seed)
    result = clustering(rows, labels, seed=seed)
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    theirs = KMeans(40, n_init=1, max_iter=100, tol=0, random_state=seed, algorithm="lloyd").fit(unit)
    assert_array_equal(result.kmeans.clusters, theirs.labels_)
    assert_allclose(result.kmeans.inertia, theirs.inertia_, rtol=1e-12)
    assert_allclose(result.kmeans.centroids, theirs.cluster_centers_, atol=1e-12)
    ami = sklearn_metrics.adjusted_mutual_info_score(labels, theirs.labels_)
    nmi = sklearn_metrics.normalized_mutual_info_score(labels, theirs.labels_)
    assert_allclose([result.agreement.ami, result.agreement.nmi], [ami, nmi], atol=1e-10)
    again = clustering(torch.from_numpy(rows), torch.from_numpy(labels)[:, None], seed=np.int64(seed))
    assert again.to_dict() == result.to_dict()
    assert type(again.to_dict()["seed"]) is int


def test_a_start_that_is_given() -> None:
    rows, _ = clustered()
    theirs = KMeans(40, init=rows[:40].astype(np.float64), n_init=1, tol=0, max_iter=3).fit(
        rows.astype(np.float64)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = kmeans(rows, init=rows[:40], iterations=3)
    assert_array_equal(ours.clusters, theirs.labels_)
    assert ours.iterations == 3


def test_without_scikit_learn_it_says_how_to_get_it(monkeypatch) -> None:
    for module in ("sklearn", "sklearn.cluster"):
        monkeypatch.setitem(sys.modules, module, None)
    for call in (lambda: kmeans(np.eye(4), 2), lambda: clustering(np.eye(4), [0, 0, 1, 1])):
        with pytest.raises(MissingExtra, match=r"pip install 'nearfar\[train\]'"):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: clustering(np.eye(4), [0, 0, 1, 1], n_clusters=5),
            "n_clusters is 5; use a whole number, 1 to 4",
        ),
        (lambda: clustering(np.eye(4), [0, 0, 1, 1], n_clusters=0), "n_clusters is 0"),
        (lambda: clustering(np.eye(4), [0, 0, 1, 1], n_clusters=True), "n_clusters is True"),
        (lambda: clustering(np.eye(4), [0, 0, 1, 1], n_clusters=1.5), "n_clusters is 1.5"),
        (lambda: clustering(np.eye(4), [0, 0, 1, 1], seed=-1), "seed is -1"),
        (lambda: clustering(np.eye(4), [0, 0, 1, 1], iterations=0), "iterations is 0"),
        (lambda: clustering(np.eye(4), [0, 0, 1]), "labels has 3 rows but there are 4 images"),
        (lambda: kmeans(np.eye(4)), "give n_clusters"),
        (lambda: kmeans(np.eye(4), init=np.eye(3)), "init has 3 dimensions"),
        (lambda: kmeans(np.eye(4), 3, init=np.eye(4)), "init has 4 rows"),
        (lambda: kmeans(np.full((3, 2), np.inf), 2), "3 rows with NaN or infinite"),
        (lambda: agreement([], []), "labels is empty"),
        (lambda: agreement([0, 1], [0]), "clusters has 1 rows"),
        (lambda: agreement([0.5, 1], [0, 1]), "labels must be one integer"),
    ],
)
def test_what_cannot_be_clustered_is_said(call, message) -> None:
    with pytest.raises(NearfarError, match=message):
        call()


def test_collapsed_rows() -> None:
    labels = np.arange(12) // 3
    for rows in (np.ones((12, 3)), np.zeros((12, 3))):
        with pytest.warns(UserWarning, match="k-means filled 1 of 4 clusters"):
            result = clustering(rows, labels)
        assert (result.agreement.nmi, result.agreement.ami, result.kmeans.inertia) == (0.0, 0.0, 0.0)


def test_one_class_one_cluster_and_one_row_each() -> None:
    rows = np.random.default_rng(0).standard_normal((6, 3))
    one = clustering(rows, np.zeros(6, int))
    assert set(vars(one.agreement).values()) >= {1.0}
    assert (one.agreement.nmi, one.agreement.f1, one.agreement.ari, one.n_clusters) == (1.0, 1.0, 1.0, 1)
    split = clustering(rows, np.zeros(6, int), n_clusters=3)
    assert (split.agreement.nmi, split.agreement.ami, split.agreement.purity) == (0.0, 0.0, 1.0)
    single = clustering(rows, np.arange(6))
    values = json.loads(json.dumps(single.to_dict(), allow_nan=False))
    assert (values["nmi"], values["ami"], values["f1"], values["precision"], values["ari"]) == (1, 1, 1, 1, 1)
    alone = clustering(rows[:1], [7])
    assert (alone.agreement.nmi, alone.agreement.f1) == (1.0, 1.0)
    assert all(0 <= value <= 1 for name, value in vars(split.agreement).items() if name != "ari")


def test_rows_without_a_label() -> None:
    rows, labels = clustered(60, 6)
    some = np.where(np.arange(60) < 20, -1, labels)
    with pytest.warns(UserWarning, match="20 of 60 labels are -1"):
        clustering(rows, some)
    left = clustering(rows, some, unlabelled=-1)
    assert left.to_dict() == clustering(rows[20:], labels[20:]).to_dict()
    clusters = np.random.default_rng(0).integers(-1, 5, 60)
    assert agreement(some, clusters, unlabelled=-1) == agreement(labels[20:], clusters[20:])
