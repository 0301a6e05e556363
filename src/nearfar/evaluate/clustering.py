"""Clustering: k-means on the embeddings, and how well clusters agree with classes."""

import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from nearfar.errors import NearfarError, require
from nearfar.evaluate.labels import Array, as_integers, labelled
from nearfar.evaluate.plain import as_html, plain_numbers
from nearfar.evaluate.rows import as_rows, in_units, peaks, power_beyond, unit
from nearfar.evaluate.settings import whole_number


@dataclass(frozen=True)
class Agreement:
    """How well clusters agree with classes. All logarithms are natural.

    With I the mutual information and H the entropies of classes and clusters:

    Attributes:
        nmi: I over the arithmetic mean of the entropies (the NMI of today's tables).
        nmi_geometric: I over their geometric mean (scikit-learn before 0.22).
        nmi_min: I over the smaller.
        nmi_max: I over the larger.
        ami: (I - E I) / (mean H - E I); E I is over random clusterings with the same sizes. Prefer it to NMI,
            which grows with the number of clusters.
        mutual_information: I.
        expected_mutual_information: E I.
        precision: of pairs in the same cluster, the share of the same class.
        recall: of pairs of the same class, the share in the same cluster.
        f1: their harmonic mean.
        ari: adjusted Rand index.
        purity: share of images of the most frequent class of their cluster.
    """

    nmi: float
    nmi_geometric: float
    nmi_min: float
    nmi_max: float
    ami: float
    mutual_information: float
    expected_mutual_information: float
    precision: float
    recall: float
    f1: float
    ari: float
    purity: float


@dataclass(frozen=True)
class KMeans:
    """Clusters by Lloyd's algorithm.

    Attributes:
        clusters: cluster of each row.
        centroids: [k, dim].
        inertia: sum of squared distances to the centroids.
        iterations: updates made.
    """

    clusters: Int64[np.ndarray, " n"] = field(repr=False)
    centroids: Float64[np.ndarray, "k dim"] = field(repr=False)
    inertia: float
    iterations: int


@dataclass(frozen=True)
class Clustering:
    """``agreement`` of the k-means clusters in ``kmeans`` with the classes; ``seed`` of the start."""

    agreement: Agreement
    kmeans: KMeans = field(repr=False)
    n_clusters: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return plain_numbers(
            asdict(self.agreement)
            | {
                "n_clusters": self.n_clusters,
                "seed": self.seed,
                "inertia": self.kmeans.inertia,
                "iterations": self.kmeans.iterations,
            }
        )

    def __str__(self) -> str:
        found = self.agreement
        return (
            f"NMI {100 * found.nmi:.2f} %   AMI {100 * found.ami:.2f} %   F1 {100 * found.f1:.2f} %\n"
            f"{len(self.kmeans.clusters)} rows in {self.n_clusters} clusters, seed {self.seed}"
        )

    def _repr_html_(self) -> str:
        return as_html(self)


def clustering(
    embeddings: Tensor | np.ndarray,
    labels: Array,
    *,
    n_clusters: int | None = None,
    iterations: int = 100,
    seed: int = 0,
    unlabelled: int | None = None,
) -> Clustering:
    """Cluster unit-length embeddings by k-means and compare the clusters with the classes.

    Args:
        embeddings: [n, dim]; brought to unit length first, zero rows stay zero.
        labels: class of each row.
        n_clusters: as many as there are classes when left out.
        iterations: updates at most.
        seed: of the k-means++ start. Results move by about a point from seed to seed.
        unlabelled: rows with this label are left out.

    Returns:
        Agreement and clusters.

    Raises:
        MissingExtra: without scikit-learn.
        NearfarError: if shapes or values do not fit.
    """
    rows = as_rows(embeddings, "embeddings")
    label, kept = labelled(labels, len(rows), unlabelled)
    rows = unit(rows if kept is None else rows[kept])
    count = len(np.unique(label)) if n_clusters is None else n_clusters
    found = kmeans(rows, count, iterations=iterations, seed=seed)
    return Clustering(_compared(label, found.clusters), found, len(found.centroids), int(seed))


def kmeans(
    embeddings: Tensor | np.ndarray,
    n_clusters: int | None = None,
    *,
    init: Tensor | np.ndarray | None = None,
    iterations: int = 100,
    seed: int = 0,
) -> KMeans:
    """Lloyd's algorithm in float64 by scikit-learn, until no row changes its cluster.

    Args:
        embeddings: [n, dim], used as they are.
        n_clusters: number of clusters, started by k-means++ (the best of several draws for each).
        init: or centroids [k, dim] to start from.
        iterations: updates at most.
        seed: of k-means++.

    Returns:
        Clusters and centroids.

    Raises:
        MissingExtra: without scikit-learn.
        NearfarError: if shapes or values do not fit.

    Reference:
        Arthur & Vassilvitskii, k-means++, SODA 2007.
    """
    rows = as_rows(embeddings, "embeddings")
    centroids = None if init is None else as_rows(init, "init")
    if centroids is not None:
        if centroids.shape[1] != rows.shape[1]:
            raise NearfarError(
                f"init has {centroids.shape[1]} dimensions but embeddings have {rows.shape[1]}."
            )
        if n_clusters is not None and n_clusters != len(centroids):
            raise NearfarError(
                f"n_clusters is {n_clusters} but init has {len(centroids)} rows; give one of both."
            )
        n_clusters = len(centroids)
    if n_clusters is None:
        raise NearfarError("give n_clusters, the number of clusters, or init, the centroids to start from.")
    n_clusters = whole_number(n_clusters, "n_clusters", 1, most=len(rows))
    iterations = whole_number(iterations, "iterations", 1)
    seed = whole_number(seed, "seed", 0)
    cluster = require("sklearn.cluster", "train")
    # scikit-learn squares the numbers it is given.
    power = power_beyond(float(peaks(rows).max()))
    start = "k-means++" if centroids is None else in_units(centroids, power).astype(np.float64)
    model = cluster.KMeans(
        n_clusters, init=start, n_init=1, max_iter=iterations, tol=0, random_state=seed, algorithm="lloyd"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says of too few distinct rows is said below
        clusters = model.fit_predict(in_units(rows, power).astype(np.float64)).astype(np.int64)
    used = len(np.unique(clusters))
    if used < n_clusters:
        warnings.warn(
            f"k-means filled {used} of {n_clusters} clusters: the {len(rows)} rows have {used} distinct "
            "values or hardly more, as those of a collapsed model.",
            UserWarning,
            stacklevel=2,
        )
    with np.errstate(over="ignore", under="ignore"):
        inertia = float(np.ldexp(model.inertia_, 2 * power))
    return KMeans(clusters, np.ldexp(model.cluster_centers_, power), inertia, int(model.n_iter_))


def agreement(labels: Array, clusters: Array, *, unlabelled: int | None = None) -> Agreement:
    """Compare clusters with classes.

    Args:
        labels: class of each row, integers.
        clusters: cluster of each row, integers.
        unlabelled: rows with this label are left out.

    Returns:
        NMI, AMI, pairwise F1 and the rest.
    """
    n = len(labels) if np.ndim(labels) else 0
    if n == 0:
        raise NearfarError("labels is empty or no array; give at least one row.")
    label, kept = labelled(labels, n, unlabelled)
    cluster = as_integers(clusters, "clusters", n)
    return _compared(label, cluster if kept is None else cluster[kept])


def _compared(label: Int64[np.ndarray, " n"], cluster: Int64[np.ndarray, " n"]) -> Agreement:
    n = len(label)
    _, rows = np.unique(label, return_inverse=True)
    _, columns = np.unique(cluster, return_inverse=True)
    n_columns = int(columns.max()) + 1
    cells, cell = np.unique(rows.astype(np.int64) * n_columns + columns, return_counts=True)
    cell = cell.astype(np.float64)
    a, b = np.bincount(rows).astype(np.float64), np.bincount(columns).astype(np.float64)
    of_row, of_column = cells // n_columns, cells % n_columns
    information = float((cell / n * np.log(n * cell / (a[of_row] * b[of_column]))).sum())
    information = max(information, 0.0)
    h_labels, h_clusters = _entropy(a), _entropy(b)
    expected = _expected_information(a, b)
    mean_entropy = (h_labels + h_clusters) / 2
    together, same_label, same_cluster = _pairs(cell).sum(), _pairs(a).sum(), _pairs(b).sum()
    precision, recall = _ratio(together, same_cluster), _ratio(together, same_label)
    by_chance = same_label * same_cluster / _pairs(np.array(float(n))) if n > 1 else 0.0
    largest = np.zeros(n_columns)
    np.maximum.at(largest, of_column, cell)
    trivial = len(a) == len(b) and len(cell) == len(a)  # the same partition, also one cluster of all
    return Agreement(
        nmi=1.0 if trivial else _ratio(information, mean_entropy),
        nmi_geometric=1.0 if trivial else _ratio(information, np.sqrt(h_labels * h_clusters)),
        nmi_min=1.0 if trivial else _ratio(information, min(h_labels, h_clusters)),
        nmi_max=1.0 if trivial else _ratio(information, max(h_labels, h_clusters)),
        ami=1.0 if trivial else _ratio(information - expected, mean_entropy - expected),
        mutual_information=information,
        expected_mutual_information=expected,
        precision=1.0 if trivial else precision,
        recall=1.0 if trivial else recall,
        f1=1.0 if trivial else _ratio(2 * precision * recall, precision + recall),
        ari=1.0 if trivial else _ratio(together - by_chance, (same_label + same_cluster) / 2 - by_chance),
        purity=float(largest.sum() / n),
    )


def _ratio(top: float, bottom: float) -> float:
    """top / bottom, 0 where bottom is 0."""
    return float(top / bottom) if bottom != 0 else 0.0


def _entropy(sizes: Float64[np.ndarray, " part"]) -> float:
    share = sizes / sizes.sum()
    return float(-(share * np.log(share)).sum())


def _pairs(sizes: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.asarray(sizes * (sizes - 1) / 2)


def _expected_information(a: Float64[np.ndarray, " row"], b: Float64[np.ndarray, " column"]) -> float:
    """E[I] over random tables with these margins (Vinh et al., JMLR 2010, eq. 24a).

    Classes of equal size contribute alike, so the sum runs over distinct pairs of sizes.
    """
    n = float(a.sum())
    log_factorial = torch.lgamma(torch.arange(int(n) + 2, dtype=torch.float64) + 1).numpy()
    sizes_a, times_a = np.unique(a, return_counts=True)
    sizes_b, times_b = np.unique(b, return_counts=True)
    total = 0.0
    for x, many_x in zip(sizes_a.astype(int), times_a, strict=True):
        for y, many_y in zip(sizes_b.astype(int), times_b, strict=True):
            cell = np.arange(max(1, x + y - int(n)), min(x, y) + 1)
            log_chance = (
                log_factorial[x]
                + log_factorial[y]
                + log_factorial[int(n) - x]
                + log_factorial[int(n) - y]
                - log_factorial[int(n)]
                - log_factorial[cell]
                - log_factorial[x - cell]
                - log_factorial[y - cell]
                - log_factorial[int(n) - x - y + cell]
            )
            value = cell / n * np.log(n * cell / (float(x) * y)) * np.exp(log_chance)
            total += float(value.sum()) * float(many_x) * float(many_y)
    return total
