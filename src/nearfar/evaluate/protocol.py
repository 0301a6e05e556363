"""Who may be found by whom: relevance and exclusions of a retrieval problem, as short lists for each query.

Exclusions are by identity, never by rank or by position: the same image id, the same sequence, the same label
seen by the same camera, junk. The matrices [query, gallery] of relevance and exclusion are never built.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from nearfar.errors import NearfarError

Rows = Int64[np.ndarray, " _"]
"""Position of a query inside the group asked for; ascending."""
Columns = Int64[np.ndarray, " _"]
"""Gallery row; ascending within a query."""

_GROUP = 1024
_PAIRS_IN_GROUP = 2**20


class EqualKeys:
    """Pairs whose keys are equal: labels, image ids, sequences, or label and camera together."""

    def __init__(
        self, keys: Int64[np.ndarray, " query"], gallery_keys: Int64[np.ndarray, " gallery"]
    ) -> None:
        self.order = np.argsort(gallery_keys, kind="stable")
        ordered = gallery_keys[self.order]
        self.start = np.searchsorted(ordered, keys, side="left")
        self.counts = np.searchsorted(ordered, keys, side="right") - self.start

    def pairs(self, queries: Int64[np.ndarray, " some"]) -> tuple[Rows, Columns]:
        """Rows and columns of the pairs of some queries."""
        counts = self.counts[queries]
        rows = np.repeat(np.arange(len(queries)), counts)
        first = np.repeat(self.start[queries] - (np.cumsum(counts) - counts), counts)
        return rows, self.order[first + np.arange(len(rows))]


class SharedLabels:
    """Pairs whose sets of labels intersect; labels are multi-hot rows."""

    def __init__(self, labels: np.ndarray, gallery_labels: np.ndarray) -> None:
        self.labels = torch.from_numpy(labels.astype(np.float32))
        self.gallery_labels = torch.from_numpy(gallery_labels.astype(np.float32))
        # Not counted beforehand: at most the whole gallery.
        self.counts = np.full(len(labels), len(gallery_labels))

    def pairs(self, queries: Int64[np.ndarray, " some"]) -> tuple[Rows, Columns]:
        """Rows and columns of the pairs of some queries."""
        rows, columns = np.nonzero(
            (self.labels[torch.from_numpy(queries)] @ self.gallery_labels.T).numpy() > 0.5
        )
        return rows, columns


class GivenPairs:
    """Pairs listed by a matrix [query, gallery]: bool, a sparse tensor of torch, or a sparse array of SciPy.

    ``kept`` are the columns that stay, renumbered in their order; None keeps all.
    """

    def __init__(
        self, matrix: Any, shape: tuple[int, int], name: str, kept: Int64[np.ndarray, " kept"] | None
    ) -> None:
        if not isinstance(matrix, Tensor) and not hasattr(matrix, "tocoo"):
            matrix = np.asarray(matrix)
        if tuple(matrix.shape) != shape:
            raise NearfarError(
                f"{name} has shape {tuple(matrix.shape)}; give one row for each query and one column for "
                f"each gallery image, {shape}."
            )
        rows, columns = _nonzero(matrix, name)
        if kept is not None:
            place = np.full(shape[1], -1)
            place[kept] = np.arange(len(kept))
            stays = place[columns] >= 0
            rows, columns = rows[stays], place[columns[stays]]
        order = np.lexsort((columns, rows))
        self.columns = columns[order]
        self.counts = np.bincount(rows, minlength=shape[0])
        self.start = np.cumsum(self.counts) - self.counts

    def pairs(self, queries: Int64[np.ndarray, " some"]) -> tuple[Rows, Columns]:
        """Rows and columns of the pairs of some queries."""
        counts = self.counts[queries]
        rows = np.repeat(np.arange(len(queries)), counts)
        first = np.repeat(self.start[queries] - (np.cumsum(counts) - counts), counts)
        return rows, self.columns[first + np.arange(len(rows))]


Pairing = EqualKeys | SharedLabels | GivenPairs


def _nonzero(matrix: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(matrix, Tensor):
        if matrix.layout == torch.strided:
            matrix = matrix.cpu().numpy()
        else:
            coo = matrix.to_sparse_coo().coalesce().cpu()
            rows, columns = coo.indices()[:, coo.values() != 0].numpy()
            return rows, columns
    if hasattr(matrix, "tocoo"):
        coo = matrix.tocoo()
        coo.sum_duplicates()
        kept = coo.data != 0
        return coo.row[kept].astype(np.int64), coo.col[kept].astype(np.int64)
    if matrix.dtype != np.bool_:
        raise NearfarError(f"{name} has dtype {matrix.dtype}; give bool values, or a sparse matrix.")
    rows, columns = np.nonzero(matrix)
    return rows, columns


class RetrievalProtocol:
    """Relevance and exclusions of one retrieval problem.

    Args:
        n_queries: number of queries.
        n_gallery: number of gallery rows.
        relevant: the pairs that count as found.
        excluded: pairs taken out before ranking; also from the relevant ones.
    """

    def __init__(self, n_queries: int, n_gallery: int, relevant: Pairing, excluded: list[Pairing]) -> None:
        self.n_queries, self.n_gallery = n_queries, n_gallery
        self._relevant, self._excluded = relevant, excluded

    def groups(self) -> list[Int64[np.ndarray, " some"]]:
        """All queries in order, in groups that keep the lists of relevant pairs short."""
        total = np.cumsum(self._relevant.counts)
        groups, start = [], 0
        while start < self.n_queries:
            before = int(total[start - 1]) if start else 0
            stop = int(np.searchsorted(total, before + _PAIRS_IN_GROUP, side="right"))
            stop = min(max(stop, start + 1), start + _GROUP, self.n_queries)
            groups.append(np.arange(start, stop))
            start = stop
        return groups

    def excluded(self, queries: Int64[np.ndarray, " some"]) -> tuple[Rows, Columns]:
        """Pairs that are not candidates, each once."""
        if len(self._excluded) == 1:
            return self._excluded[0].pairs(queries)
        keys = [
            rows * self.n_gallery + columns
            for rows, columns in (each.pairs(queries) for each in self._excluded)
        ]
        unique = np.unique(np.concatenate([np.empty(0, np.int64), *keys]))
        return unique // self.n_gallery, unique % self.n_gallery

    def relevant(
        self, queries: Int64[np.ndarray, " some"], excluded: tuple[Rows, Columns]
    ) -> tuple[Rows, Columns]:
        """Relevant pairs that are candidates."""
        rows, columns = self._relevant.pairs(queries)
        out = np.sort(excluded[0] * self.n_gallery + excluded[1])
        if len(out) == 0:
            return rows, columns
        keys = rows * self.n_gallery + columns
        kept = out[np.minimum(np.searchsorted(out, keys), len(out) - 1)] != keys
        return rows[kept], columns[kept]


def paired_codes(
    first: Int64[np.ndarray, " query"],
    second: Int64[np.ndarray, " query"],
    gallery_first: Int64[np.ndarray, " gallery"],
    gallery_second: Int64[np.ndarray, " gallery"],
) -> EqualKeys:
    """Pairs that are equal in both of two keys, as label and camera."""
    _, one = np.unique(np.concatenate([first, gallery_first]), return_inverse=True)
    _, two = np.unique(np.concatenate([second, gallery_second]), return_inverse=True)
    codes = (one * (two.max() + 1) + two).astype(np.int64)
    return EqualKeys(codes[: len(first)], codes[len(first) :])
