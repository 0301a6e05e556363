"""Measures of the embedding space itself: how tight classes are, how far apart, how evenly spread.

What only rounding could have made is 0 here: distances below the resolution of the type in which the rows
come, and singular values that rounding of single numbers can reach. So a collapsed model measures as one.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.evaluate.distances import squared_distances
from nearfar.evaluate.labels import Array, labelled
from nearfar.evaluate.plain import as_html, plain_numbers
from nearfar.evaluate.rows import as_rows, in_units, peaks, resolution, unit

_BLOCK = 2**22
_DUST = 16  # squared resolutions of |a|², up to which |a - b|² can be rounding


class SpaceWarning(UserWarning):
    """A measure of the space that is not defined, or rows that have no direction."""


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
        """The numbers that are finite, ready for JSON."""
        return plain_numbers(asdict(self))

    def __str__(self) -> str:
        titles = {
            "silhouette": self.silhouette_cosine,
            "intra / inter": self.intra_over_inter,
            "alignment": self.alignment,
            "uniformity": self.uniformity,
            "effective rank": self.effective_rank,
            "spectral decay": self.spectral_decay,
        }
        return "\n".join(
            f"{title:<14}  {'not defined' if math.isnan(value) else f'{value:.4f}'}"
            for title, value in titles.items()
        )

    def _repr_html_(self) -> str:
        return as_html(self)


def space(embeddings: Tensor | np.ndarray, labels: Array, *, unlabelled: int | None = None) -> Space:
    """Measure an embedding space in blocks of rows; cost grows with n², memory does not.

    A zero row has cosine 0 with everything, another zero row included. Where the centres of all classes are
    one point, as those of a collapsed model, ``intra_over_inter`` is NaN; where all rows are zero, the two
    measures of the spectrum are. ``spectral_decay`` is infinite where a direction is missing.

    Args:
        embeddings: [n, dim]; brought to unit length where the measure asks for it.
        labels: class of each row, integers.
        unlabelled: rows with this label are left out.

    Returns:
        All measures.

    Raises:
        NearfarError: if there is only one class, or no class has two images.
    """
    rows, label = _given(embeddings, labels, unlabelled)
    if label.max() == 0:
        raise NearfarError("all rows have the same label; measures of the space need two classes or more.")
    if np.bincount(label).max() < 2:
        raise NearfarError("no class has two images; intra-class measures need at least one that has.")
    fine = resolution(embeddings)
    values = _spectrum(rows, fine)
    n_zero = int(np.count_nonzero(peaks(rows) == 0))
    if n_zero:
        _tell(
            f"{n_zero} of {len(rows)} rows {'is' if n_zero == 1 else 'are'} zero; the cosine of a zero row "
            "counts as 0, with anything."
        )
    intra, inter = _intra(rows, label, fine), _inter(rows, label, fine)
    if inter == 0:
        _tell(
            "the centres of all classes are one point, as those of a collapsed model: intra over inter is "
            "not defined and given as nan."
        )
    rank, decay = math.nan, math.nan
    if values[0] > 0:
        share = values / values.sum()
        some = share[share > 0]
        rank = float(np.exp(-(some * np.log(some)).sum()))
        decay = math.inf
        if len(some) == len(share):
            decay = max(0.0, float(-np.log(len(share)) - np.log(share).mean()))
    else:
        _tell("all rows are zero: effective rank and spectral decay are not defined and given as nan.")
    return Space(
        silhouette_euclidean=float(_silhouette(rows, label, "euclidean", fine).mean()),
        silhouette_cosine=float(_silhouette(rows, label, "cosine", fine).mean()),
        intra=intra,
        inter=inter,
        intra_over_inter=intra / inter if inter else math.nan,
        alignment=2 * intra,
        uniformity=_uniformity(rows, 2.0, fine),
        effective_rank=rank,
        spectral_decay=decay,
        singular_values=values,
    )


def silhouette(
    embeddings: Tensor | np.ndarray,
    labels: Array,
    *,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    unlabelled: int | None = None,
) -> Float64[np.ndarray, " n"]:
    """Silhouette of each row with its class as cluster.

    (b - a) / max(a, b), a the mean distance to the others of the class, b the smallest mean distance to
    another class; 0 for a class of one (Rousseeuw 1987).

    Args:
        embeddings: [n, dim], used as they are.
        labels: class of each row.
        metric: distance.
        unlabelled: rows with this label are left out, also of what is returned.

    Returns:
        One value in [-1, 1] for each row.
    """
    rows, label = _given(embeddings, labels, unlabelled)
    if metric not in ("euclidean", "cosine"):
        raise NearfarError(f"metric is {metric!r}; use 'euclidean' or 'cosine'.")
    if label.max() == 0:
        raise NearfarError("all rows have the same label; a silhouette needs two classes or more.")
    return _silhouette(rows, label, metric, resolution(embeddings))


def intra_distance(embeddings: Tensor | np.ndarray, labels: Array) -> float:
    """Mean cosine distance over all pairs of two images of the same class."""
    return alignment(embeddings, labels) / 2


def inter_distance(embeddings: Tensor | np.ndarray, labels: Array) -> float:
    """Mean cosine distance over all pairs of class centroids (means of unit rows)."""
    rows, label = _given(embeddings, labels, None)
    if label.max() == 0:
        raise NearfarError("all rows have the same label; a distance of classes needs two or more.")
    return _inter(rows, label, resolution(embeddings))


def alignment(embeddings: Tensor | np.ndarray, labels: Array, *, unlabelled: int | None = None) -> float:
    """Mean of |x - y|² = 2 - 2 cos over all pairs of two unit rows of the same class.

    A zero row has no unit length and cosine 0 with everything, so its pairs count as 2. Rows with the label
    ``unlabelled`` are left out.
    """
    rows, label = _given(embeddings, labels, unlabelled)
    if np.bincount(label).max() < 2:
        raise NearfarError("no class has two images; intra-class measures need at least one that has.")
    return 2 * _intra(rows, label, resolution(embeddings))


def uniformity(embeddings: Tensor | np.ndarray, *, t: float = 2.0) -> float:
    """log of the mean of exp(-t |x - y|²) over all pairs of two unit rows; a zero row as in ``alignment``."""
    rows = as_rows(embeddings, "embeddings")
    if len(rows) < 2:
        raise NearfarError("there is one row; uniformity is over pairs and needs two rows or more.")
    if not 0 < t < math.inf:
        raise NearfarError(f"t is {t}; use a positive number.")
    return _uniformity(rows, float(t), resolution(embeddings))


def spectrum(embeddings: Tensor | np.ndarray) -> Float64[np.ndarray, " value"]:
    """Singular values of the matrix of rows as they are, descending; 0 below what rounding can make."""
    return _spectrum(as_rows(embeddings, "embeddings"), resolution(embeddings))


def _silhouette(
    rows: np.ndarray, label: Int64[np.ndarray, " n"], metric: str, fine: float
) -> Float64[np.ndarray, " n"]:
    sizes = np.bincount(label)
    member = torch.zeros(len(rows), len(sizes), dtype=torch.float64)
    member[torch.arange(len(rows)), torch.from_numpy(label)] = 1
    result = np.zeros(len(rows))
    for some, squared in _squared_distances(rows, fine, unit_length=metric == "cosine"):
        distance = squared / 2 if metric == "cosine" else np.sqrt(squared)
        own_row = np.arange(len(distance))
        distance[own_row, np.arange(len(rows))[some]] = 0
        sums = (torch.from_numpy(distance) @ member).numpy()
        own = label[some]
        a = sums[own_row, own] / np.maximum(sizes[own] - 1, 1)
        means = sums / sizes
        means[own_row, own] = np.inf
        b = means.min(axis=1)
        largest = np.maximum(a, b)
        value = np.divide(b - a, largest, out=np.zeros_like(a), where=largest > 0)
        result[some] = np.where(sizes[own] > 1, value, 0.0)
    return result


def _intra(rows: np.ndarray, label: Int64[np.ndarray, " n"], fine: float) -> float:
    """Mean cosine distance of two rows of a class."""
    whole = unit(rows)
    there = np.any(whole, axis=1)
    pairs = _pairs(np.bincount(label)).sum()
    spread, with_zero = _spread(whole[there], label[there]), pairs - _pairs(np.bincount(label[there])).sum()
    return _settled((spread / 2 + with_zero) / pairs, fine)


def _inter(rows: np.ndarray, label: Int64[np.ndarray, " n"], fine: float) -> float:
    """Mean cosine distance of the directions of two classes; of a class without one it is 1."""
    whole = unit(rows)
    sizes = np.bincount(label)
    sums = np.zeros((len(sizes), whole.shape[1]))
    np.add.at(sums, label, whole)
    # Rows that point everywhere have a mean that is rounding only.
    sums[np.linalg.norm(sums, axis=1) <= 4 * fine * sizes] = 0
    centroids = unit(sums)
    there = centroids.any(axis=1)
    pairs, with_zero = _pairs(len(sizes)), _pairs(len(sizes)) - _pairs(np.count_nonzero(there))
    spread = _spread(centroids[there], np.zeros(np.count_nonzero(there), np.int64))
    return _settled(float((spread / 2 + with_zero) / pairs), fine)


def _spread(rows: Float64[np.ndarray, "n dim"], label: Int64[np.ndarray, " n"]) -> float:
    """Σ |x - y|² over the pairs of two rows with one label, of equal rows exactly 0.

    n Σ |x - m|² within each class, with m the mean, seen from the first row of the class.
    """
    classes, first, code, sizes = np.unique(label, return_index=True, return_inverse=True, return_counts=True)
    seen = rows - rows[first][code]
    sums = np.zeros((len(classes), rows.shape[1]))
    np.add.at(sums, code, seen)
    seen -= (sums / sizes[:, None])[code]
    return float((sizes[code] * (seen**2).sum(axis=1)).sum())


def _settled(distance: float, fine: float) -> float:
    """A mean cosine distance, 0 where rows that are rounded to ``fine`` cannot tell it from 0."""
    return float(distance) if distance > _DUST * fine**2 / 2 else 0.0


def _pairs(sizes: Any) -> Any:
    return sizes * (sizes - 1) / 2


def _uniformity(rows: np.ndarray, t: float, fine: float) -> float:
    n, total, most = len(rows), 0.0, -math.inf
    for some, squared in _squared_distances(rows, fine, unit_length=True):
        power = -t * squared
        power[np.arange(len(power)), np.arange(n)[some]] = -np.inf
        largest = max(most, float(power.max()))
        total = total * math.exp(most - largest) + float(np.exp(power - largest).sum())
        most = largest
    return math.log(total / (n * (n - 1))) + most


def _spectrum(rows: np.ndarray, fine: float) -> Float64[np.ndarray, " value"]:
    peak = float(peaks(rows).max())
    power = math.frexp(peak)[1]
    values = torch.linalg.svdvals(torch.from_numpy(in_units(rows, power).astype(np.float64))).numpy()
    # Rounding changes each number by half of ``fine`` at most, so no singular value by more than this (Weyl);
    # and the decomposition is made in float64.
    noise = max(fine / 2 * float(np.linalg.norm(values)), max(rows.shape) * 2.0**-52 * values[0])
    values[values <= noise] = 0
    return np.ldexp(values, power)


def _squared_distances(
    rows: np.ndarray, fine: float, *, unit_length: bool
) -> Iterator[tuple[slice, Float64[np.ndarray, "some n"]]]:
    """Slices of rows, each with |a - b|² to all rows; the diagonal is free.

    Of unit length, or as given but for one power of two.
    """
    power = math.frexp(float(peaks(rows).max()))[1]
    seen = unit(rows) if unit_length else in_units(rows, power).astype(np.float64)
    length = (seen**2).sum(axis=1)
    there = length > 0
    seen -= seen[there].mean(axis=0) if there.any() else 0.0
    square = (seen**2).sum(axis=1)
    # Rounding errors are as large as the row is, and not as its distance from the mean.
    dust = _DUST * fine**2 / 2 * length
    step = max(1, _BLOCK // len(rows))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        squared = squared_distances(seen[some], seen, square)
        squared[squared <= dust[some, None] + dust] = 0
        if unit_length:
            squared[~there[some]] = 2
            squared[:, ~there] = 2
        yield some, squared


def _given(
    embeddings: Tensor | np.ndarray, labels: Array, unlabelled: int | None
) -> tuple[np.ndarray, Int64[np.ndarray, " n"]]:
    rows = as_rows(embeddings, "embeddings")
    label, kept = labelled(labels, len(rows), unlabelled)
    rows = rows if kept is None else rows[kept]
    return rows, np.unique(label, return_inverse=True)[1].astype(np.int64)


def _tell(sentence: str) -> None:
    warnings.warn(sentence, SpaceWarning, stacklevel=3)
