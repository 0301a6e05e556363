"""Exact nearest neighbours, in blocks: no full matrix, the same answer for every tile size and machine."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from nearfar.evaluate.comparison import EmbeddingComparison, Similarity
from nearfar.evaluate.extent import Extent
from nearfar.evaluate.labels import Array
from nearfar.evaluate.protocol import Columns, RetrievalProtocol, Rows
from nearfar.evaluate.ranks import strips
from nearfar.evaluate.rows import as_rows
from nearfar.evaluate.settings import perhaps_whole, whole_number
from nearfar.evaluate.sides import build_exclusions
from nearfar.similarity.threads import in_threads

_CROWD = 2048


@dataclass(frozen=True)
class Neighbours:
    """Nearest gallery rows of each query, nearest first; equal similarities in the order of gallery rows.

    Attributes:
        ids: gallery rows; -1 where a query has fewer candidates than k.
        similarity: their similarity, larger is nearer (minus the distance for the euclidean forms); -inf
            where there is none.
    """

    ids: Int64[np.ndarray, "query k"]
    similarity: Float32[np.ndarray, "query k"]

    def __repr__(self) -> str:
        return f"Neighbours({len(self.ids)} queries, k={self.ids.shape[1]})"


def neighbours(
    queries: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray | None = None,
    k: int = 10,
    *,
    ids: Array | None = None,
    gallery_ids: Array | None = None,
    excluded: Any = None,
    similarity: Similarity = "cosine",
    tile: int | None = None,
    workers: int | None = None,
) -> Neighbours:
    """Find the k nearest gallery rows of each query, exactly.

    A float32 product screens the gallery; candidates near enough get a float64 score, so that
    equal rows tie exactly and neither the tile size nor the device changes the answer.

    Args:
        queries: [q, dim].
        gallery: [g, dim]; left out: the queries themselves, and none finds itself.
        k: number of neighbours.
        ids: image identity, integers [q]; a gallery row with the query's id is not a candidate.
        gallery_ids: as ``ids``.
        excluded: further pairs that are no candidates: bool or sparse [q, g].
        similarity: "cosine", "dot", "euclidean" or "squared_euclidean".
        tile: rows and columns of one product; changes time and memory only.
        workers: threads; as many as torch uses when left out.

    Returns:
        Neighbours, each [q, k].

    Raises:
        NearfarError: if shapes or values do not fit.
    """
    rows = as_rows(queries, "queries")
    others = rows if gallery is None else as_rows(gallery, "gallery")
    tile, workers = perhaps_whole(tile, "tile", 1), perhaps_whole(workers, "workers", 1)
    k = whole_number(k, "k", 1, most=max(len(others), 2**16), ask="ask for a whole number of neighbours")
    exclusions = build_exclusions(
        len(rows), len(others), alone=gallery is None, ids=(ids, gallery_ids), excluded=excluded
    )
    device = queries.device if isinstance(queries, Tensor) else torch.device("cpu")
    comparison = EmbeddingComparison(rows, others, similarity=similarity, device=device)
    found, scores = best_of_gallery(comparison, exclusions, k, tile, workers)
    return Neighbours(found, similarities(scores, found, similarity, comparison.extent))


def similarities(
    scores: Float64[np.ndarray, "query k"],
    found: Int64[np.ndarray, "query k"],
    similarity: str,
    extent: Extent,
) -> Float32[np.ndarray, "query k"]:
    """Scores as the similarity asked for, in the units of the rows that were given; -inf where none is."""
    with np.errstate(over="ignore", under="ignore"):
        if similarity == "euclidean":
            values = np.ldexp(-np.sqrt(-scores), extent.gallery_power)
        else:
            values = np.ldexp(scores, extent.query_power + extent.gallery_power)
    most = np.finfo(np.float32).max
    beyond = (np.abs(values) > most) & (found >= 0)
    if beyond.any():
        warnings.warn(
            f"{np.count_nonzero(beyond)} of {beyond.size} similarities lie beyond float32 and are given as "
            f"±{most:.3g}, in the right order; use similarity='cosine', or shorter rows.",
            UserWarning,
            stacklevel=3,
        )
        values[beyond] = np.copysign(most, values[beyond])
    return values.astype(np.float32) + np.float32(0)  # -0 becomes 0


def best_of_gallery(
    comparison: EmbeddingComparison,
    exclusions: RetrievalProtocol,
    k: int,
    tile: int | None,
    workers: int | None,
) -> tuple[Int64[np.ndarray, "query k"], Float64[np.ndarray, "query k"]]:
    """Return the k best gallery rows of each query and their scores; -1 and -inf where there is none."""
    found = np.full((comparison.n_queries, k), -1, np.int64)
    scores = np.full((comparison.n_queries, k), -np.inf)

    def work(group: Int64[np.ndarray, " some"]) -> None:
        _search(comparison, exclusions, group, tile, found, scores)

    in_threads(work, exclusions.groups(), workers)
    return found, scores


def _search(
    comparison: EmbeddingComparison,
    exclusions: RetrievalProtocol,
    queries: Int64[np.ndarray, " some"],
    tile: int | None,
    found: Int64[np.ndarray, "query k"],
    scores: Float64[np.ndarray, "query k"],
) -> None:
    """Fill the rows of ``found`` and ``scores`` of some queries."""
    k = min(found.shape[1], comparison.n_gallery)
    excluded = exclusions.excluded(queries)
    out = np.searchsorted(excluded[0], np.arange(len(queries) + 1))
    _, error = comparison.strip_place(queries, np.zeros(len(queries)))
    candidates: list[Int64[np.ndarray, " candidate"]] = []
    crowded = []
    for part, block in strips(comparison, queries, np.arange(len(queries)), tile):
        for local, row in enumerate(part):
            line = block[local]
            line[excluded[1][out[row] : out[row + 1]]] = -np.inf
            # Whatever can be among the first k: within twice the error of the k-th value found.
            kth = np.partition(line, len(line) - k)[len(line) - k]
            floor = np.nextafter(np.float32(kth - 2 * error[row]), np.float32(-np.inf))
            near = np.flatnonzero(line >= floor) if kth > -np.inf else np.flatnonzero(line > -np.inf)
            if len(near) > k + _CROWD:
                crowded.append(row)
                near = near[:0]
            candidates.append(near)
    rows = np.repeat(np.arange(len(queries)), [len(each) for each in candidates])
    columns = np.concatenate(candidates)
    _keep_best(comparison.pairs(queries[rows], columns), rows, columns, queries, found, scores)
    for row in crowded:
        _search_in_float64(comparison, excluded[1][out[row] : out[row + 1]], int(queries[row]), found, scores)


def _keep_best(
    values: Float64[np.ndarray, " pair"],
    rows: Rows,
    columns: Columns,
    queries: Int64[np.ndarray, " some"],
    found: Int64[np.ndarray, "query k"],
    scores: Float64[np.ndarray, "query k"],
) -> None:
    order = np.lexsort((columns, -values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    best = place < found.shape[1]
    found[queries[rows[best]], place[best]] = columns[best]
    scores[queries[rows[best]], place[best]] = values[best]


def _search_in_float64(
    comparison: EmbeddingComparison,
    excluded: Columns,
    query: int,
    found: Int64[np.ndarray, "query k"],
    scores: Float64[np.ndarray, "query k"],
) -> None:
    """One query with a crowd of near-ties around its k-th neighbour."""
    line = comparison.rows64(np.array([query]))[0]
    line[excluded] = -np.inf
    k = min(found.shape[1], int(np.count_nonzero(line > -np.inf)))
    kth = np.partition(line, len(line) - k)[len(line) - k]
    near = np.flatnonzero(line >= kth - 2 * comparison.window64)
    values = comparison.pairs_of_one(query, near)
    order = np.lexsort((near, -values))[:k]
    found[query, :k], scores[query, :k] = near[order], values[order]
