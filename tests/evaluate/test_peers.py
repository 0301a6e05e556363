"""Beside pytorch-metric-learning and scikit-learn: where they agree, and where they differ by design."""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn import metrics as sklearn_metrics

import nearfar.evaluate as ev
from ranking_problems import evaluate, load, problem

# Raised inside the peers or faiss while they are imported, not by nearfar.
pytestmark = [
    pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*numpy.core.*:DeprecationWarning"),
]

PML = {
    "precision_at_1": "recall_at_1",
    "r_precision": "r_precision",
    "mean_average_precision_at_r": "map_at_r",
    "mean_average_precision": "map",
    "mean_reciprocal_rank": "mrr",
}


def accuracy_calculator(include=tuple(PML), **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from pytorch_metric_learning.distances import CosineSimilarity
        from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
        from pytorch_metric_learning.utils.inference import CustomKNN

        return AccuracyCalculator(include=include, knn_func=CustomKNN(CosineSimilarity()), **settings)


def of_pml(rows, labels, **settings) -> dict[str, float]:
    calculator = accuracy_calculator(**settings)
    return calculator.get_accuracy(torch.from_numpy(rows), torch.from_numpy(labels))


def clustered(seed=0, n=120, classes=15):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    centres = generator.standard_normal((classes, 12))
    return (centres[labels] + 1.5 * generator.standard_normal((n, 12))).astype(np.float32), labels


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_pml_agrees_on_plain_problems(average) -> None:
    rows, labels = clustered()
    theirs = of_pml(rows, labels, k=None, avg_of_avgs=average == "macro")
    ours = ev.retrieval(rows, labels, average=average)
    for name, field in PML.items():
        value = ours.recall_at_k[1] if field == "recall_at_1" else getattr(ours, field)
        assert_allclose(value, theirs[name], atol=1e-6, err_msg=name)


def test_pml_confuses_labels_that_float32_cannot_tell_apart() -> None:
    data = load(2)
    ours = evaluate(problem(2, data, np.float32))
    rows = data["embeddings"].astype(np.float32)
    theirs = of_pml(rows / np.linalg.norm(rows, axis=1, keepdims=True), data["labels"], k=None)
    by_cosine = evaluate(problem(2, data, np.float32) | {"similarity": "cosine"})
    assert abs(theirs["mean_average_precision_at_r"] - by_cosine.map_at_r) > 0.02
    renamed = np.unique(data["labels"], return_inverse=True)[1]
    same = of_pml(rows, renamed, k=None)
    assert_allclose(by_cosine.map_at_r, same["mean_average_precision_at_r"], atol=1e-6)
    assert ours.n_skipped == by_cosine.n_skipped > 0


def test_average_precision_and_ndcg_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    relevant = generator.random((8, 30)) < 0.2
    relevant[:, 3] = True
    smooth, tied = generator.random((8, 30)), generator.integers(0, 6, (8, 30)).astype(float)
    for distances in (smooth, tied):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ev.TieWarning)
            ours = ev.retrieval_by_distance(distances, relevant=relevant, ks=(5, 30), ties="expected")
        theirs = np.mean(
            [
                sklearn_metrics.average_precision_score(*pair)
                for pair in zip(relevant, -distances, strict=True)
            ]
        )
        # Its nDCG is the mean over the orders of ties; its AP takes a tie as one step of the curve, ours is a mean.
        assert_allclose(ours.ndcg_at_k[5], sklearn_metrics.ndcg_score(relevant, -distances, k=5), atol=1e-12)
        assert_allclose(ours.ndcg_at_k[30], sklearn_metrics.ndcg_score(relevant, -distances), atol=1e-12)
        if distances is smooth:
            assert_allclose(ours.map, theirs, atol=1e-12)
        else:
            assert abs(ours.map - theirs) > 1e-3


def test_clusters_and_space_of_scikit_learn() -> None:
    rows, labels = clustered(1)
    result = ev.clustering(rows, labels, seed=3)
    clusters, agreement = result.kmeans.clusters, result.agreement
    pairs = sklearn_metrics.cluster.pair_confusion_matrix(labels, clusters)
    expected = {
        "nmi": sklearn_metrics.normalized_mutual_info_score(labels, clusters),
        "nmi_max": sklearn_metrics.normalized_mutual_info_score(labels, clusters, average_method="max"),
        "ami": sklearn_metrics.adjusted_mutual_info_score(labels, clusters),
        "ari": sklearn_metrics.adjusted_rand_score(labels, clusters),
        "precision": pairs[1, 1] / (pairs[1, 1] + pairs[0, 1]),
        "recall": pairs[1, 1] / (pairs[1, 1] + pairs[1, 0]),
    }
    for name, value in expected.items():
        assert_allclose(getattr(agreement, name), value, atol=1e-10, err_msg=name)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    from sklearn.cluster import KMeans

    theirs = KMeans(15, init=unit[:15], n_init=1, algorithm="lloyd", tol=0, max_iter=100).fit(unit)
    ours = ev.kmeans(unit, init=unit[:15])
    assert_allclose(ours.inertia, theirs.inertia_, rtol=1e-4)
    assert (ours.clusters == theirs.labels_).all()
    for metric in ("euclidean", "cosine"):
        samples = sklearn_metrics.silhouette_samples(rows, labels, metric=metric)
        assert_allclose(ev.silhouette(rows, labels, metric=metric), samples, atol=1e-5)


def test_curves_of_scikit_learn() -> None:
    generator = np.random.default_rng(2)
    same = generator.random(300) < 0.4
    score = np.round(generator.standard_normal(300) + same, 1)
    result = ev.verification(score, same, far=(0.5, 0.05))
    far, tar, thresholds = sklearn_metrics.roc_curve(same, score, drop_intermediate=False)
    assert_allclose(result.auc, sklearn_metrics.roc_auc_score(same, score), atol=1e-12)
    assert_allclose(result.far, far)
    assert_allclose(result.tar, tar)
    assert_allclose(result.thresholds, thresholds)


def test_what_cannot_be_verified_or_clustered_is_said() -> None:
    with pytest.raises(ValueError, match="needs both kinds"):
        ev.verification([0.1, 0.2], [1, 1])
    with pytest.raises(ValueError, match="2 values but same has 3"):
        ev.verification([0.1, 0.2], [1, 0, 1])
    with pytest.raises(ValueError, match="n_clusters is 9; use a whole number, 1 to 4"):
        ev.kmeans(np.eye(4), 9)
    flat = np.random.default_rng(0).standard_normal((20, 2)) @ np.eye(2, 5)
    with pytest.raises(ValueError, match="vary in 2 dimensions"):
        ev.Whitening(flat)
    with pytest.raises(ValueError, match="same label"):
        ev.space(np.eye(4), [1, 1, 1, 1])


def test_re_ranking_row_by_row_and_alone() -> None:
    rows, labels = clustered(4, 60, 8)
    alone = ev.KReciprocal(rows, k1=6, k2=3)
    by_rows = ev.retrieval_by_distance(alone, labels)
    by_matrix = ev.retrieval_by_distance(alone.distances(), labels)
    assert by_rows.to_dict() == by_matrix.to_dict()
    assert by_rows.map > ev.retrieval(rows, labels).map
    # The row itself is not among the neighbours of a set with itself, nor are rows of the same id.
    expanded = ev.expand_queries(rows, k=1, alpha=0.0)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = ev.neighbours(rows, k=1)
    sums = unit + unit[found.ids[:, 0]]
    assert_allclose(expanded, sums / np.linalg.norm(sums, axis=1, keepdims=True), atol=1e-6)
    nobody = ev.expand_queries(rows, k=3, ids=np.zeros(60, np.int64))
    assert_allclose(nobody, unit, atol=1e-6)
