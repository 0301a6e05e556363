"""Exact nearest neighbours across ranks: each has a part of the queries and a part of the gallery.

The parts of the gallery go around a ring. Each rank searches the part that is with it as one process would,
and merges what it found with what it had: nearest first, equal similarities in the order of gallery rows.
The score of a pair hangs on its two rows alone, so the answer is that of one process, to the last bit.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from nearfar.distributed import around_the_ring, rank, row_counts, together, world_size
from nearfar.errors import NearfarError
from nearfar.evaluate.comparison import EmbeddingComparison, Similarity, check_similarity
from nearfar.evaluate.extent import Extent
from nearfar.evaluate.labels import Array, as_integers
from nearfar.evaluate.neighbours import Neighbours, best_of_gallery, similarities
from nearfar.evaluate.rows import as_rows
from nearfar.evaluate.settings import perhaps_whole, whole_number
from nearfar.evaluate.sides import build_exclusions


def neighbours_across_ranks(
    queries: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray | None = None,
    k: int = 10,
    *,
    gallery_rows: Array | None = None,
    ids: Array | None = None,
    gallery_ids: Array | None = None,
    similarity: Similarity = "cosine",
    tile: int | None = None,
    workers: int | None = None,
) -> Neighbours:
    """Find the k nearest gallery rows of each query of this rank, exactly, in the galleries of all ranks.

    Every rank must call this. A rank holds its own rows and at most two parts of the gallery. Near-ties are
    settled as in ``neighbours``, whose answer this is, to the last bit.

    Args:
        queries: [q, dim]; ranks may have different numbers of them, or none.
        gallery: [g, dim], this rank's part; left out: the queries themselves, and none finds itself.
        k: number of neighbours.
        gallery_rows: which rows of the whole gallery these are, distinct over all ranks. Unless given, rank r
            of W has the rows r, r + W, r + 2W, ….
        ids: image identity, integers [q]; a gallery row with the query's id is not a candidate.
        gallery_ids: as ``ids``.
        similarity: "cosine", "dot", "euclidean" or "squared_euclidean".
        tile: rows and columns of one product; changes time and memory only.
        workers: threads; as many as torch uses when left out.

    Returns:
        Neighbours of this rank's queries, each [q, k]; ``ids`` are rows of the whole gallery.

    Raises:
        NearfarError: if shapes or values do not fit, on any rank; all ranks then raise the same.
    """
    device = queries.device if isinstance(queries, Tensor) else torch.device("cpu")
    with together():
        tile, workers = perhaps_whole(tile, "tile", 1), perhaps_whole(workers, "workers", 1)
        k = whole_number(k, "k", 1, ask="ask for a whole number of neighbours")
        check_similarity(similarity)
        rows = as_rows(queries, "queries", least=0)
        others = rows if gallery is None else as_rows(gallery, "gallery", least=0)
        if rows.shape[1] != others.shape[1]:
            raise NearfarError(
                f"queries have {rows.shape[1]} dimensions and the gallery has {others.shape[1]}; "
                "embed both with the same model."
            )
        if (ids is None) != (gallery_ids is None) and gallery is not None:
            raise NearfarError("ids and gallery_ids go together; give both or neither.")
        given = None if gallery_rows is None else as_integers(gallery_rows, "gallery_rows", len(others))
        identity = None if ids is None else as_integers(ids, "ids", len(rows))
        identities = identity if gallery is None else None
        if gallery_ids is not None:
            identities = as_integers(gallery_ids, "gallery_ids", len(others))
    counts = row_counts(torch.from_numpy(np.require(others, requirements="W")))
    with together():
        places = _dealt(counts) if given is None else given
        if sum(counts) == 0:
            raise NearfarError("the galleries of all ranks are empty; give at least one row on one of them.")
    if identity is None and gallery is None:
        identity = identities = places
    extent = Extent.of(rows, others, similarity, across_ranks=True)

    found = np.full((len(rows), k), -1, np.int64)
    scores = np.full((len(rows), k), -np.inf)
    order = np.argsort(places, kind="stable")  # a search settles ties by the order of the rows it is given
    shard = [others[order], places[order], *([] if identities is None else [identities[order]])]
    for _, part in around_the_ring(*(torch.from_numpy(x) for x in shard)):
        some, numbers, *theirs = (x.numpy() for x in part)
        if len(rows) == 0 or len(some) == 0:
            continue
        both = (identity, theirs[0]) if theirs else (None, None)
        exclusions = build_exclusions(len(rows), len(some), alone=False, ids=both, excluded=None)
        comparison = EmbeddingComparison(rows, some, similarity=similarity, device=device, extent=extent)
        near, values = best_of_gallery(comparison, exclusions, min(k, len(some)), tile, workers)
        found, scores = _merged(k, [found, np.where(near < 0, -1, numbers[near])], [scores, values])
    return Neighbours(found, similarities(scores, found, similarity, extent))


def _merged(
    k: int,
    ids: Sequence[Int64[np.ndarray, "query some"]],
    scores: Sequence[Float64[np.ndarray, "query some"]],
) -> tuple[Int64[np.ndarray, "query k"], Float64[np.ndarray, "query k"]]:
    """Return the first k of two lists: larger scores first, then lower ids."""
    every, values = np.concatenate(ids, axis=1), np.concatenate(scores, axis=1)
    order = np.lexsort((every, -values), axis=1)[:, :k]
    return np.take_along_axis(every, order, 1), np.take_along_axis(values, order, 1)


def _dealt(counts: Sequence[int]) -> Int64[np.ndarray, " row"]:
    """Return this rank's rows of a gallery that was dealt to the ranks row by row."""
    size, own = world_size(), rank()
    dealt = [len(range(r, sum(counts), size)) for r in range(size)]
    if list(counts) != dealt:
        raise NearfarError(
            f"the ranks have {', '.join(map(str, counts))} gallery rows, but a gallery dealt row by row has "
            f"{', '.join(map(str, dealt))}; give gallery_rows, the place of each row in the whole."
        )
    return np.arange(own, sum(counts), size)
