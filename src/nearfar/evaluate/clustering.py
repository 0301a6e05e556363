"""Clustering: k-means on the embeddings, and how well clusters agree with classes."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.evaluate.labelled import with_label
from nearfar.evaluate.rows import as_rows
from nearfar.evaluate.sides import Array, as_integers
from nearfar.missing import warn_of_missing


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

    clusters: Int64[np.ndarray, " n"]
    centroids: Float64[np.ndarray, "k dim"]
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
        return asdict(self.agreement) | {
            "n_clusters": self.n_clusters,
            "seed": self.seed,
            "inertia": self.kmeans.inertia,
            "iterations": self.kmeans.iterations,
        }


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
        embeddings: [n, dim]; brought to unit length first.
        labels: class of each row.
        n_clusters: as many as there are classes when left out.
        iterations: updates at most.
        seed: of the k-means++ start. Results move by about a point from seed to seed.
        unlabelled: the label of rows that have none, such as -1: they are left out.

    Returns:
        Agreement and clusters.
    """
    if unlabelled is not None:
        labels, embeddings = with_label(unlabelled, labels, embeddings)
    rows = as_rows(embeddings, "embeddings").astype(np.float64)
    label = as_integers(labels, "labels", len(rows))
    warn_of_missing(label, "are one class", "evaluate.clustering")
    count = len(np.unique(label)) if n_clusters is None else n_clusters
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)
    found = kmeans(rows, count, iterations=iterations, seed=seed)
    return Clustering(agreement(label, found.clusters), found, count, seed)


def kmeans(
    embeddings: Tensor | np.ndarray,
    n_clusters: int | None = None,
    *,
    init: Tensor | np.ndarray | None = None,
    iterations: int = 100,
    seed: int = 0,
) -> KMeans:
    """Lloyd's algorithm in float64: update centroids until nothing moves, then assign once more.

    A row in the middle goes to the centroid with the lower number; a cluster without rows keeps its centroid.

    Args:
        embeddings: [n, dim], used as they are.
        n_clusters: number of clusters, started by k-means++.
        init: or centroids [k, dim] to start from.
        iterations: updates at most.
        seed: of k-means++.

    Returns:
        Clusters and centroids.

    Reference:
        Arthur & Vassilvitskii, k-means++, SODA 2007.
    """
    rows = as_rows(embeddings, "embeddings").astype(np.float64)
    if init is not None:
        centroids = as_rows(init, "init").astype(np.float64)
        if centroids.shape[1] != rows.shape[1]:
            raise NearfarError(
                f"init has {centroids.shape[1]} dimensions but embeddings have {rows.shape[1]}."
            )
    else:
        if n_clusters is None or not 1 <= n_clusters <= len(rows):
            raise NearfarError(
                f"n_clusters is {n_clusters}; use 1 to {len(rows)}, the number of rows, or give init."
            )
        centroids = _spread_start(rows, n_clusters, seed)
    clusters, _ = _assign(rows, centroids)
    made = 0
    while made < iterations:
        made += 1
        centroids = _centroids(rows, clusters, centroids)
        before = clusters
        clusters, _ = _assign(rows, centroids)
        if (clusters == before).all():
            break
    inertia = float(((rows - centroids[clusters]) ** 2).sum())
    return KMeans(clusters, centroids, inertia, made)


def _centroids(
    rows: Float64[np.ndarray, "n dim"], clusters: Int64[np.ndarray, " n"], old: Float64[np.ndarray, "k dim"]
) -> Float64[np.ndarray, "k dim"]:
    sizes = np.bincount(clusters, minlength=len(old))
    sums = np.zeros_like(old)
    np.add.at(sums, clusters, rows)
    return np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], old)


def _assign(
    rows: Float64[np.ndarray, "n dim"], centroids: Float64[np.ndarray, "k dim"]
) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Nearest centroid of each row and the squared distance to it; in blocks."""
    clusters, nearest = np.empty(len(rows), np.int64), np.empty(len(rows))
    centre = torch.from_numpy(centroids)
    step = max(1, 2**22 // len(centroids))
    for start in range(0, len(rows), step):
        block = torch.from_numpy(rows[start : start + step])
        squared = (
            block.square().sum(1, keepdim=True) + centre.square().sum(1) - 2 * block @ centre.T
        ).numpy()
        clusters[start : start + step] = squared.argmin(axis=1)
        nearest[start : start + step] = squared.min(axis=1)
    return clusters, np.maximum(nearest, 0)


def _spread_start(
    rows: Float64[np.ndarray, "n dim"], n_clusters: int, seed: int
) -> Float64[np.ndarray, "k dim"]:
    """k-means++: each next centroid is a row drawn with probability ∝ squared distance to those chosen."""
    generator = np.random.default_rng(seed)
    chosen = [int(generator.integers(len(rows)))]
    nearest = ((rows - rows[chosen[0]]) ** 2).sum(axis=1)
    for _ in range(n_clusters - 1):
        total = np.cumsum(nearest)
        if total[-1] == 0:  # fewer distinct rows than clusters
            chosen.append(int(generator.integers(len(rows))))
            continue
        place = np.searchsorted(total, generator.random() * total[-1], side="right")
        chosen.append(min(int(place), len(rows) - 1))
        nearest = np.minimum(nearest, ((rows - rows[chosen[-1]]) ** 2).sum(axis=1))
    return rows[chosen]


def agreement(labels: Array, clusters: Array) -> Agreement:
    """Compare clusters with classes.

    Args:
        labels: class of each row, integers.
        clusters: cluster of each row, integers.

    Returns:
        NMI, AMI, pairwise F1 and the rest.
    """
    given = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    label = as_integers(given, "labels", given.size)
    cluster = as_integers(clusters, "clusters", len(label))
    n = len(label)
    if n == 0:
        raise NearfarError("labels is empty; give at least one row.")
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
        precision=precision,
        recall=recall,
        f1=_ratio(2 * precision * recall, precision + recall),
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
