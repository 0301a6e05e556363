"""The golden problems of verification, clustering, the space, post-processing and Revisited Oxford's own values."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import nearfar.evaluate as ev
from ranking_problems import evaluate, load, problem
from turns import in_turns

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@DTYPES
@pytest.mark.parametrize("prefix", ["E__", "M__", "H__"])
def test_values_of_revisited_oxford(prefix: str, dtype: type) -> None:
    data = load(9)
    arguments = problem(9, data, dtype, prefix) | {"ks": (1, 5, 10)}
    result = evaluate(arguments)
    assert_allclose(result.map_trapezoid, data[f"{prefix}revisitop_map"], atol=1e-9)
    ours = list(result.precision_at_min_last_k.values())
    assert_allclose(ours, data[f"{prefix}revisitop_mpk"], atol=1e-9)


@pytest.mark.parametrize("case", [1, 2, 3, 4])
def test_the_biased_value_that_counts_the_query_in_the_denominator_is_not_ours(case: int) -> None:
    data = load(case)
    result = evaluate(problem(case, data, np.float64))
    biased = data["rdml_mAP_c_pq"]
    assert np.nanmax(np.abs(biased - result.per_query["map_at_r"])) > 0.01
    assert result.map_at_r > float(data["rdml_mAP_c"])


@DTYPES
def test_distances_that_are_given(dtype: type) -> None:
    data = load(7)
    arguments = problem(7, data, dtype)
    for name in ("embeddings", "gallery", "similarity"):
        arguments.pop(name)
    result = ev.retrieval_by_distance(data["dist"], **arguments)
    assert_allclose(result.per_query["map"], data["pq__index__ap"], atol=1e-9)


@in_turns(2, dtype=[np.float32, np.float64], tile=[1, 7, 64, None], case=range(1, 11))
def test_neighbours_are_in_the_golden_order(case: int, tile: int | None, dtype: type) -> None:
    data = load(case)
    prefix = "M__" if case == 9 else ""
    arguments = problem(case, data, dtype, prefix)
    order = data[f"{prefix}order"]
    found = ev.neighbours(
        arguments["embeddings"],
        arguments.get("gallery", arguments["embeddings"]),
        order.shape[1],
        excluded=~data[f"{prefix}keep"],
        similarity=arguments["similarity"],
        tile=tile,
    )
    assert_array_equal(found.ids, order)


def test_agreement_of_clusters() -> None:
    data = load(11)
    found = ev.kmeans(data["unit_embeddings"], init=data["km_init"], iterations=int(data["km_iters"]))
    assert_array_equal(found.clusters, data["km_labels"])
    assert_allclose(found.centroids, data["km_centroids"], atol=1e-9)
    assert_allclose(found.inertia, data["km_inertia"], atol=1e-9)
    names = {
        "nmi": "nmi_arithmetic",
        "nmi_geometric": "nmi_geometric",
        "nmi_min": "nmi_min",
        "nmi_max": "nmi_max",
        "ami": "ami_arithmetic",
        "mutual_information": "mi",
        "expected_mutual_information": "emi",
        "precision": "pair_precision",
        "recall": "pair_recall",
        "f1": "f1",
        "ari": "ari",
        "purity": "purity",
    }
    for prefix, clusters in (("pred", data["pred"]), ("km", found.clusters)):
        result = ev.agreement(data["labels"], clusters)
        for ours, theirs in names.items():
            assert_allclose(getattr(result, ours), data[f"{prefix}__{theirs}"], atol=1e-9, err_msg=theirs)


def test_measures_of_the_space() -> None:
    data = load(11)
    rows, labels = data["embeddings"], data["labels"]
    for metric in ("euclidean", "cosine"):
        samples = ev.silhouette(rows, labels, metric=metric)
        assert_allclose(samples, data[f"silhouette_{metric}_samples"], atol=1e-9)
    result = ev.space(rows, labels)
    names = {
        "silhouette_euclidean": "silhouette_euclidean",
        "silhouette_cosine": "silhouette_cosine",
        "intra": "intra_cosine",
        "inter": "inter_centroid_cosine",
        "intra_over_inter": "intra_over_inter",
        "alignment": "alignment",
        "uniformity": "uniformity_t2",
        "singular_values": "singular_values",
        "effective_rank": "effective_rank",
        "spectral_decay": "rho_kl_uniform_s",
    }
    for ours, theirs in names.items():
        assert_allclose(getattr(result, ours), data[theirs], atol=1e-9, err_msg=theirs)


@DTYPES
def test_verification(dtype: type) -> None:
    data = load(12)
    targets = data["far_targets"].tolist()
    with pytest.warns(UserWarning, match="cannot be measured"):
        result = ev.verification(data["score"], data["same"], far=targets)
    assert_allclose(result.thresholds, data["roc_thresholds"])
    assert_allclose(result.far, data["roc_far"], atol=1e-12)
    assert_allclose(result.tar, data["roc_tar"], atol=1e-12)
    for name in ("auc", "eer", "best_accuracy", "best_threshold"):
        assert_allclose(getattr(result, name), data[name], atol=1e-9, err_msg=name)
    assert_allclose(list(result.tar_at_far.values()), data["tar_at_far"], atol=1e-12)
    assert_allclose(list(result.threshold_at_far.values()), data["tar_threshold"], atol=1e-12)
    assert_allclose(list(result.actual_far.values()), data["tar_actual_far"], atol=1e-12)
    folds = ev.fold_accuracy(data["lfw_a"].astype(dtype), data["lfw_b"].astype(dtype), data["lfw_same"])
    assert_allclose(folds.per_fold, data["lfw_fold_accuracy"], atol=1e-12)
    assert_allclose([folds.accuracy, folds.std], [data["lfw_accuracy"], data["lfw_std"]], atol=1e-12)


@DTYPES
def test_post_processing(dtype: type) -> None:
    data = load(13)
    queries, gallery = data["query_embeddings"].astype(dtype), data["gallery_embeddings"].astype(dtype)
    loose, tight = (
        ({"atol": 1e-4}, {"atol": 1e-5}) if dtype == np.float32 else ({"atol": 1e-9}, {"atol": 1e-9})
    )
    for letter in "abc":
        k1, k2, weight = data[f"kr_{letter}__params"]
        settings = {"k1": int(k1), "k2": int(k2), "weight": float(weight)}
        assert_allclose(ev.k_reciprocal(queries, gallery, **settings), data[f"kr_{letter}__dist"], **loose)
        jaccard = ev.KReciprocal(queries, gallery, **settings).jaccard(np.arange(len(queries)))
        assert_allclose(jaccard, data[f"kr_{letter}__jaccard"], **loose)
    for alpha in (0.0, 1.0, 3.0):
        expanded = ev.expand_queries(queries, gallery, k=4, alpha=alpha)
        assert_allclose(expanded, data[f"aqe_k4_alpha{alpha:g}"], **tight)
        augmented = ev.augment_gallery(gallery, k=3, alpha=alpha)
        assert_allclose(augmented, data[f"dba_k3_alpha{alpha:g}"], **tight)
    whiten = ev.Whitening(data["pca_train"].astype(dtype), int(data["pca_dim"]))
    whitened = np.concatenate([whiten(queries), whiten(gallery)])
    assert_allclose(whitened @ whitened.T, data["pca_gram"], **loose)
    assert_allclose(whiten.mean, data["pca_mean"], **tight)
    assert_allclose(whiten.eigenvalues, data["pca_eigvals"], **loose)
    views = [data["tta_view1"].astype(dtype), data["tta_view2"].astype(dtype)]
    assert_allclose(ev.average_views(views), data["tta_mean"], **tight)
    joined = ev.concatenate_models(views)
    assert_allclose(joined @ joined.T, data["tta_concat_sim"], **tight)


def test_the_golden_folder_is_complete() -> None:
    assert len(list((Path(__file__).parents[1] / "golden" / "metrics").glob("case*.npz"))) == 13
