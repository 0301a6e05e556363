"""Measures of the embedding space itself: how tight classes are, how far apart, how evenly spread."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.evaluate.labelled import with_label
from nearfar.evaluate.rows import as_rows
from nearfar.evaluate.sides import Array, as_integers
from nearfar.missing import warn_of_missing

_BLOCK = 2**22


@dataclass(frozen=True)
class Space:
    """Measures of an embedding space with classes; of unit-length rows except where it says "as given".

    Attributes:
        silhouette_euclidean: mean silhouette by Euclidean distance of the rows as given, classes as clusters.
        silhouette_cosine: the same by cosine distance.
        intra: mean cosine distance of two images of the same class.
        inter: mean cosine distance of two class centroids.
        intra_over_inter: their ratio. Larger ("density" of Roth et al., ICML 2020) generalised better there.
        alignment: mean squared distance of two images of the same class (Wang & Isola, ICML 2020).
        uniformity: log of the mean of exp(-2 |x - y|²) over all pairs (same source); smaller is more even.
        singular_values: of the matrix of rows as given, descending.
        effective_rank: exp of the entropy of the normalised singular values (Roy & Vetterli, EUSIPCO 2007).
        spectral_decay: KL(uniform || normalised singular values), ρ of Roth et al. 2020; 0: flat spectrum.
    """

    silhouette_euclidean: float
    silhouette_cosine: float
    intra: float
    inter: float
    intra_over_inter: float
    alignment: float
    uniformity: float
    effective_rank: float
    spectral_decay: float
    singular_values: Float64[np.ndarray, " value"] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return asdict(self) | {"singular_values": self.singular_values.tolist()}


def space(embeddings: Tensor | np.ndarray, labels: Array, *, unlabelled: int | None = None) -> Space:
    """Measure an embedding space in blocks of rows; cost grows with n², memory does not.

    Args:
        embeddings: [n, dim]; brought to unit length where the measure asks for it.
        labels: class of each row, integers.
        unlabelled: the label of rows that have none, such as -1: they are left out.

    Returns:
        All measures.

    Raises:
        NearfarError: if there is only one class, or no class has two images.
    """
    if unlabelled is not None:
        labels, embeddings = with_label(unlabelled, labels, embeddings)
    rows, label = _unit(embeddings), _labels(labels, len(embeddings))
    if label.max() == 0:
        raise NearfarError("all rows have the same label; measures of the space need two classes or more.")
    if np.bincount(label).max() < 2:
        raise NearfarError("no class has two images; intra-class measures need at least one that has.")
    values = spectrum(embeddings)
    share = values / values.sum()
    some = share[share > 0]
    intra, inter = intra_distance(rows, label), inter_distance(rows, label)
    with np.errstate(divide="ignore"):
        decay = float(-np.log(len(share)) - np.log(share).mean())
    return Space(
        silhouette_euclidean=float(silhouette(embeddings, label, metric="euclidean").mean()),
        silhouette_cosine=float(silhouette(rows, label, metric="cosine").mean()),
        intra=intra,
        inter=inter,
        intra_over_inter=intra / inter,
        alignment=alignment(rows, label),
        uniformity=uniformity(rows),
        effective_rank=float(np.exp(-(some * np.log(some)).sum())),
        spectral_decay=decay,
        singular_values=values,
    )


def silhouette(
    embeddings: Tensor | np.ndarray, labels: Array, *, metric: Literal["euclidean", "cosine"] = "euclidean"
) -> Float64[np.ndarray, " n"]:
    """Silhouette of each row with its class as cluster.

    (b - a) / max(a, b), a the mean distance to the others of the class, b the smallest mean distance to
    another class; 0 for a class of one (Rousseeuw 1987).

    Args:
        embeddings: [n, dim], used as they are.
        labels: class of each row.
        metric: distance.

    Returns:
        One value in [-1, 1] for each row.
    """
    rows = as_rows(embeddings, "embeddings").astype(np.float64)
    label = _labels(labels, len(rows))
    if metric not in ("euclidean", "cosine"):
        raise NearfarError(f"metric is {metric!r}; use 'euclidean' or 'cosine'.")
    if metric == "cosine":
        rows = _unit(rows)
    sizes = np.bincount(label)
    if len(sizes) < 2:
        raise NearfarError("all rows have the same label; a silhouette needs two classes or more.")
    member = torch.zeros(len(rows), len(sizes), dtype=torch.float64)
    member[torch.arange(len(rows)), torch.from_numpy(label)] = 1
    result = np.zeros(len(rows))
    for some, similarity in _blocks(rows):
        if metric == "cosine":
            distance = 1 - similarity
        else:
            square = (rows**2).sum(axis=1)
            distance = torch.from_numpy(
                np.sqrt(np.maximum(square[some, None] + square - 2 * similarity.numpy(), 0))
            )
        own_row = np.arange(len(distance))
        distance[own_row, np.arange(len(rows))[some]] = 0
        sums = (distance @ member).numpy()
        own = label[some]
        a = sums[own_row, own] / np.maximum(sizes[own] - 1, 1)
        means = sums / sizes
        means[own_row, own] = np.inf
        b = means.min(axis=1)
        largest = np.maximum(a, b)
        value = np.divide(b - a, largest, out=np.zeros_like(a), where=largest > 0)
        result[some] = np.where(sizes[own] > 1, value, 0.0)
    return result


def intra_distance(embeddings: Tensor | np.ndarray, labels: Array) -> float:
    """Mean cosine distance over all pairs of two images of the same class."""
    return alignment(embeddings, labels) / 2


def inter_distance(embeddings: Tensor | np.ndarray, labels: Array) -> float:
    """Mean cosine distance over all pairs of class centroids (means of unit rows)."""
    rows = _unit(embeddings)
    label = _labels(labels, len(rows))
    centroids = np.zeros((int(label.max()) + 1, rows.shape[1]))
    np.add.at(centroids, label, rows)
    centroids = _unit(centroids)
    n = len(centroids)
    total = centroids.sum(axis=0)
    return float(1 - (total @ total - (centroids**2).sum()) / (n * (n - 1)))


def alignment(embeddings: Tensor | np.ndarray, labels: Array) -> float:
    """Mean of |x - y|² over all pairs of two unit rows of the same class."""
    rows = _unit(embeddings)
    label = _labels(labels, len(rows))
    sizes = np.bincount(label).astype(np.float64)
    sums = np.zeros((len(sizes), rows.shape[1]))
    np.add.at(sums, label, rows)
    # Σ_{i<j} |x_i - x_j|² = n Σ |x_i|² - |Σ x_i|² within each class
    squares = np.bincount(label, weights=(rows**2).sum(axis=1), minlength=len(sizes))
    pairs = (sizes * (sizes - 1) / 2).sum()
    return float((sizes * squares - (sums**2).sum(axis=1)).sum() / pairs)


def uniformity(embeddings: Tensor | np.ndarray, *, t: float = 2.0) -> float:
    """log of the mean of exp(-t |x - y|²) over all pairs of two unit rows."""
    rows = _unit(embeddings)
    total, n = 0.0, len(rows)
    for some, similarity in _blocks(rows):
        kernel = torch.exp(2 * t * (similarity - 1))
        kernel[np.arange(len(kernel)), np.arange(n)[some]] = 0
        total += float(kernel.sum())
    return float(np.log(total / (n * (n - 1))))


def spectrum(embeddings: Tensor | np.ndarray) -> Float64[np.ndarray, " value"]:
    """Singular values of the matrix of rows as they are, descending."""
    rows = as_rows(embeddings, "embeddings").astype(np.float64)
    return torch.linalg.svdvals(torch.from_numpy(rows)).numpy()


def _blocks(rows: Float64[np.ndarray, "n dim"]) -> Any:
    """Slices of rows, each with its products with all rows."""
    everything = torch.from_numpy(rows)
    step = max(1, _BLOCK // len(rows))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        yield some, everything[some] @ everything.T


def _unit(embeddings: Tensor | np.ndarray) -> Float64[np.ndarray, "n dim"]:
    rows = as_rows(embeddings, "embeddings").astype(np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def _labels(labels: Array, n: int) -> Int64[np.ndarray, " n"]:
    label = as_integers(labels, "labels", n)
    warn_of_missing(label, "are one class", "evaluate.space", stacklevel=4)
    return np.unique(label, return_inverse=True)[1].astype(np.int64)
