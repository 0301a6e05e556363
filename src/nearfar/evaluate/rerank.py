"""Post-processing of embeddings before or instead of plain ranking.

All of it uses the whole gallery (k-reciprocal re-ranking the other queries too), so always report the plain
result beside it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.evaluate.distances import squared_distances
from nearfar.evaluate.labels import Array
from nearfar.evaluate.neighbours import neighbours
from nearfar.evaluate.rows import as_rows, in_units, peaks, power_beyond, squarable
from nearfar.evaluate.settings import share, whole_number


def expand_queries(
    queries: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray | None = None,
    *,
    k: int = 10,
    alpha: float = 3.0,
    ids: Array | None = None,
    gallery_ids: Array | None = None,
    excluded: Any = None,
) -> Float64[np.ndarray, "query dim"]:
    """α-weighted query expansion: q' = unit(q + Σ_{g in the first k} max(q·g, 0)^α g).

    Args:
        queries: [q, dim], brought to unit length.
        gallery: [g, dim]; left out: the queries themselves, none is its own neighbour.
        k: number of neighbours.
        alpha: 0 is plain average query expansion (every neighbour weighs 1).
        ids: rows with the query's id are no neighbours.
        gallery_ids: see ``ids``.
        excluded: further pairs that are no neighbours, bool or sparse [q, g]: what the evaluation excludes.

    Returns:
        Unit-length queries.

    Reference:
        Radenović et al., TPAMI 2019. https://arxiv.org/abs/1711.02512
    """
    rows = _unit(queries, "queries")
    others = rows if gallery is None else _unit(gallery, "gallery")
    alpha = share(alpha, "alpha", most=np.inf)
    k = min(whole_number(k, "k", 1), len(others))
    found = neighbours(
        rows, None if gallery is None else others, k, ids=ids, gallery_ids=gallery_ids, excluded=excluded
    )
    result = rows.copy()
    for place in range(found.ids.shape[1]):
        there = np.flatnonzero(found.ids[:, place] >= 0)
        near = others[found.ids[there, place]]
        weight = np.maximum((rows[there] * near).sum(axis=1), 0.0) ** alpha
        result[there] += weight[:, None] * near
    return _unit(result)


def augment_gallery(
    gallery: Tensor | np.ndarray, *, k: int = 10, alpha: float = 3.0, ids: Array | None = None
) -> Float64[np.ndarray, "gallery dim"]:
    """Database-side augmentation: ``expand_queries`` of the gallery against itself, each row with weight 1.

    Args:
        gallery: [g, dim], brought to unit length.
        k: number of neighbours, the row itself not among them.
        alpha: exponent of the weights.
        ids: rows with the same id are no neighbours.

    Returns:
        Unit-length gallery.

    Reference:
        Arandjelović & Zisserman, CVPR 2012; weights as Radenović et al., TPAMI 2019.
    """
    return expand_queries(gallery, k=k, alpha=alpha, ids=ids)


class Whitening:
    """PCA whitening, learned on training embeddings: y = unit(diag(w)^(-t/2) Vᵀ (x - m)).

    m and C are mean and covariance (divided by n) of ``training``; V, w the ``dim`` largest eigenvectors and
    eigenvalues of C. The sign of an eigenvector is free, so single numbers of y are too; products are not.

    Args:
        training: embeddings [n, dim_in].
        dim: dimensions kept; all when left out.
        shrinkage: t in [0, 1]; 1 whitens fully, 0 only rotates and cuts.

    Reference:
        Jégou & Chum, ECCV 2012.
    """

    def __init__(
        self, training: Tensor | np.ndarray, dim: int | None = None, *, shrinkage: float = 1.0
    ) -> None:
        rows = as_rows(training, "training")
        kept = rows.shape[1] if dim is None else whole_number(dim, "dim", 1, most=rows.shape[1])
        shrinkage = share(shrinkage, "shrinkage")
        self._power = power_beyond(float(peaks(rows).max()))
        rows = in_units(rows, self._power).astype(np.float64)
        mean = rows.mean(axis=0)
        centred = rows - mean
        values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
        largest = values[::-1][:kept].copy()
        if shrinkage > 0 and largest[-1] <= 1e-12 * largest[0]:
            rank = int(np.count_nonzero(values > 1e-12 * values[-1]))
            if rank == 0 or len(rows) == 1:
                raise NearfarError(
                    f"the {len(rows)} training embeddings are all equal; there is no direction to whiten."
                )
            raise NearfarError(
                f"training embeddings vary in {rank} dimensions only; whiten to dim={rank} or fewer."
            )
        # In units of two to the ``_power``, which is 0 but for numbers whose squares no float64 holds.
        self.projection = vectors[:, ::-1][:, :kept] * largest ** (-shrinkage / 2)
        with np.errstate(over="ignore", under="ignore"):
            self.mean, self.eigenvalues = np.ldexp(mean, self._power), np.ldexp(largest, 2 * self._power)

    def __call__(self, embeddings: Tensor | np.ndarray) -> Float64[np.ndarray, "n dim"]:
        """Whiten and bring to unit length."""
        rows = as_rows(embeddings, "embeddings").astype(np.float64)
        if rows.shape[1] != len(self.mean):
            raise NearfarError(
                f"embeddings have {rows.shape[1]} dimensions; this whitening takes {len(self.mean)}."
            )
        return _unit(in_units(rows - self.mean, self._power) @ self.projection)


def average_views(views: Sequence[Tensor | np.ndarray]) -> Float64[np.ndarray, "n dim"]:
    """Test-time augmentation: unit(mean of the unit embeddings of several views of the same images)."""
    return _unit(np.sum(_of_same_images(views, "views", same_dim=True), axis=0))


def concatenate_models(embeddings: Sequence[Tensor | np.ndarray]) -> Float64[np.ndarray, "n dim"]:
    """Join embeddings of the same images by several models: unit length each, side by side, unit length."""
    return _unit(np.concatenate(_of_same_images(embeddings, "embeddings", same_dim=False), axis=1))


def _of_same_images(
    several: Sequence[Tensor | np.ndarray], name: str, *, same_dim: bool
) -> list[Float64[np.ndarray, "n _"]]:
    parts = [_unit(each, f"{name}[{place}]") for place, each in enumerate(several)]
    shapes = [part.shape for part in parts]
    if len({shape if same_dim else shape[0] for shape in shapes}) != 1:
        raise NearfarError(
            f"{name} has the shapes {', '.join(map(str, shapes)) or 'of nothing'}; give one row for "
            f"each image every time{', of one dim' if same_dim else ''}, and once at least."
        )
    return parts


class KReciprocal:
    """k-reciprocal re-ranking of Zhong et al., in sparse form: final = (1-λ) Jaccard + λ distance.

    X holds queries and gallery together. D is the squared Euclidean distance of unit rows, each row divided
    by its largest value; neighbours are ordered by (D, index), the row itself included.

        R(i, k)  = {j in the first k+1 of i : i in the first k+1 of j}
        R*(i)    = R(i, k1) ∪ R(c, round(k1/2)) for each c of R(i, k1)
                   with |R(c, round(k1/2)) ∩ R(i, k1)| > 2/3 |R(c, round(k1/2))|
        V_i[j]   ∝ exp(-D_ij) over R*(i), sum 1; then the mean of V over the first k2 of i
        Jaccard  = 1 - Σ min(V_i, V_j) / (2 - Σ min(V_i, V_j))

    Memory holds the k1+1 neighbours and the sparse V, not the matrix: ``retrieval_by_distance`` takes the
    object itself and asks for ``rows``; ``distances`` gives the whole matrix.

    Args:
        queries: [q, dim], brought to unit length.
        gallery: [g, dim]; left out: the queries themselves (leave one out).
        k1: size of the reciprocal neighbourhood.
        k2: neighbours averaged over; 1 for none.
        weight: λ.

    Reference:
        Zhong et al., CVPR 2017. https://arxiv.org/abs/1701.08398
    """

    def __init__(
        self,
        queries: Tensor | np.ndarray,
        gallery: Tensor | np.ndarray | None = None,
        *,
        k1: int = 20,
        k2: int = 6,
        weight: float = 0.3,
    ) -> None:
        rows = _unit(queries, "queries")
        others = None if gallery is None else _unit(gallery, "gallery")
        if others is not None and others.shape[1] != rows.shape[1]:
            raise NearfarError(
                f"queries have {rows.shape[1]} dimensions and the gallery has {others.shape[1]}; "
                "embed both with the same model."
            )
        self._everything = rows if others is None else np.concatenate([rows, others])
        self._square = (self._everything**2).sum(axis=1)
        self.n_queries = len(rows)
        self._first_gallery = 0 if gallery is None else self.n_queries
        self.weight = share(weight, "weight")
        total = len(self._everything)
        k1, k2 = whole_number(k1, "k1", 1), whole_number(k2, "k2", 1)
        if k2 > k1 + 1:
            raise NearfarError(f"k1={k1}, k2={k2}: use 1 ≤ k2 ≤ k1 + 1.")
        # Searched as a gallery of its own: every row finds itself too, as the definition asks.
        self._near = neighbours(
            self._everything, self._everything, min(k1 + 1, total), similarity="squared_euclidean"
        ).ids
        self._largest = self._row_maxima()
        self._sparse = self._expand([self._encode(i, k1) for i in range(total)], k2)
        self._by_column = self._invert()

    @property
    def shape(self) -> tuple[int, int]:
        """(queries, gallery)"""
        return self.n_queries, len(self._everything) - self._first_gallery

    def rows(self, queries: Int64[np.ndarray, " some"]) -> Float64[np.ndarray, "some gallery"]:
        """Final distances of some queries."""
        return (1 - self.weight) * self.jaccard(queries) + self.weight * self._squared(queries)[
            :, self._first_gallery :
        ] / self._largest[queries][:, None]

    def distances(self) -> Float64[np.ndarray, "query gallery"]:
        """Final distances of all queries, [q, g]."""
        return self.rows(np.arange(self.n_queries))

    def jaccard(self, queries: Int64[np.ndarray, " some"]) -> Float64[np.ndarray, "some gallery"]:
        """Jaccard distances of some queries."""
        shared = np.zeros((len(queries), len(self._everything)))
        for place, i in enumerate(queries):
            columns, values = self._sparse[i]
            for column, value in zip(columns, values, strict=True):
                rows, others = self._by_column[column]
                shared[place, rows] += np.minimum(value, others)
        shared = shared[:, self._first_gallery :]
        return 1 - shared / (2 - shared)

    def _squared(self, rows: Int64[np.ndarray, " some"]) -> Float64[np.ndarray, "some total"]:
        return squared_distances(self._everything[rows], self._everything, self._square)

    def _row_maxima(self) -> Float64[np.ndarray, " total"]:
        total = len(self._everything)
        step = max(1, 2**22 // total)
        parts = [
            self._squared(np.arange(start, min(start + step, total))).max(axis=1)
            for start in range(0, total, step)
        ]
        largest = np.concatenate(parts)
        return np.where(largest > 0, largest, 1.0)

    def _reciprocal(self, i: int, k: int) -> Int64[np.ndarray, " member"]:
        forward = self._near[i, : k + 1]
        return forward[(self._near[forward, : k + 1] == i).any(axis=1)]

    def _encode(self, i: int, k1: int) -> tuple[Int64[np.ndarray, " member"], Float64[np.ndarray, " member"]]:
        core = self._reciprocal(i, k1)
        members = core
        half = int(np.around(k1 / 2))
        for candidate in core:
            theirs = self._reciprocal(int(candidate), half)
            if len(np.intersect1d(theirs, core)) > 2 / 3 * len(theirs):
                members = np.append(members, theirs)
        members = np.unique(members)
        difference = self._everything[members] - self._everything[i]
        weight = np.exp(-(difference**2).sum(axis=1) / self._largest[i])
        return members, weight / weight.sum()

    def _expand(
        self, encoded: list[tuple[np.ndarray, np.ndarray]], k2: int
    ) -> list[tuple[Int64[np.ndarray, " member"], Float64[np.ndarray, " member"]]]:
        if k2 == 1:
            return encoded
        result = []
        for i in range(len(encoded)):
            near = self._near[i, :k2]
            columns = np.concatenate([encoded[j][0] for j in near])
            values = np.concatenate([encoded[j][1] for j in near])
            unique, back = np.unique(columns, return_inverse=True)
            result.append((unique, np.bincount(back, weights=values) / len(near)))
        return result

    def _invert(self) -> list[tuple[Int64[np.ndarray, " row"], Float64[np.ndarray, " row"]]]:
        rows = np.repeat(np.arange(len(self._sparse)), [len(columns) for columns, _ in self._sparse])
        columns = np.concatenate([columns for columns, _ in self._sparse])
        values = np.concatenate([values for _, values in self._sparse])
        order = np.argsort(columns, kind="stable")
        cuts = np.searchsorted(columns[order], np.arange(1, len(self._sparse)))
        return list(zip(np.split(rows[order], cuts), np.split(values[order], cuts), strict=True))


def k_reciprocal(
    queries: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray | None = None,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
) -> Float64[np.ndarray, "query gallery"]:
    """Final distances [q, g] of ``KReciprocal``, for ``retrieval_by_distance``."""
    return KReciprocal(queries, gallery, k1=k1, k2=k2, weight=weight).distances()


def _unit(embeddings: Tensor | np.ndarray, name: str = "embeddings") -> Float64[np.ndarray, "n dim"]:
    """Rows of unit length in float64; rows that have it to float32 accuracy stay as they are."""
    rows = squarable(as_rows(embeddings, name)).astype(np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    norm[(np.abs(norm - 1) < 1e-6) | (norm == 0)] = 1.0
    return rows / norm
