"""Retrieval: rank the gallery for each query and say how well the relevant images are found."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.evaluate.comparison import (
    DistanceRows,
    EmbeddingComparison,
    GivenComparison,
    Similarity,
)
from nearfar.evaluate.evaluation import NoRelevant, Options, evaluate
from nearfar.evaluate.intervals import Average, Resample
from nearfar.evaluate.labels import Array
from nearfar.evaluate.metrics import Ties
from nearfar.evaluate.result import RetrievalResult
from nearfar.evaluate.rows import as_rows
from nearfar.evaluate.sides import build_sides


def retrieval(
    embeddings: Tensor | np.ndarray,
    labels: Array | None = None,
    *,
    gallery: Tensor | np.ndarray | None = None,
    gallery_labels: Array | None = None,
    ids: Array | None = None,
    gallery_ids: Array | None = None,
    cameras: Array | None = None,
    gallery_cameras: Array | None = None,
    sequences: Array | None = None,
    gallery_sequences: Array | None = None,
    relevant: Any = None,
    junk: Any = None,
    similarity: Similarity = "cosine",
    ks: Sequence[int] = (1, 2, 4, 8),
    ties: Ties = "index",
    no_relevant: NoRelevant = "skip",
    average: Average = "micro",
    bootstrap: int = 0,
    resample: Resample = "class",
    seed: int = 0,
    cmc_length: int = 50,
    tile: int | None = None,
    workers: int | None = None,
    across_ranks: bool = False,
    unlabelled: int | None = None,
) -> RetrievalResult:
    """Rank the gallery for each query by exact scores and measure how well relevant images are found.

    Without ``gallery`` every row is a query against all other rows (leave one out). Scores are decided in
    float64 wherever float32 could be wrong, so the result does not depend on tile size or machine.

    Args:
        embeddings: queries [q, dim]; any length when ``similarity`` is cosine.
        labels: class of each query: integers [q], or multi-hot [q, classes], then two images are relevant to
            each other when they share a class. May be left out when ``relevant`` is given.
        gallery: gallery [g, dim].
        gallery_labels: as ``labels``, for the gallery.
        ids: image identity, integers [q]; a gallery image with the query's id is not a candidate. Without
            ids and without a gallery, an image is only kept from finding itself. Ids that come twice are
            warned of: they are what a padded last batch leaves.
        gallery_ids: as ``ids``.
        cameras: camera of each image, integers. Switches on the protocol of Market-1501: gallery images with
            the label and the camera of the query are no candidates, and those with label -1 are junk.
        gallery_cameras: as ``cameras``.
        sequences: a gallery image of the query's sequence is not a candidate.
        gallery_sequences: as ``sequences``.
        relevant: explicit relevance [q, g], bool or sparse; labels then only name the classes of the queries.
        junk: what is no candidate: bool or sparse [q, g], or bool [g] for whole gallery images.
        similarity: "cosine", "dot", "euclidean" or "squared_euclidean".
        ks: cut-offs of the metrics at k.
        ties: order of candidates with equal scores. "index": by gallery row; "optimistic": relevant ones
            first; "pessimistic": last; "expected": the exact mean over all orders.
        no_relevant: queries with no relevant candidate are left out ("skip"), or count as 0 ("zero").
        average: "micro" is the mean over queries, "macro" the mean over the means of classes; a query with
            explicit relevance and no label, or with several labels, is its own class.
        bootstrap: number of resamples for 95 % intervals; 0 for none.
        resample: draw whole classes (the honest choice: images of a class are not independent) or "query".
        seed: of the resampling.
        cmc_length: length of the CMC curve.
        tile: rows and columns of one product; changes time and memory only.
        workers: threads; as many as torch uses when left out.
        across_ranks: divide the queries among the ranks, each of which gives the same arguments; all get the
            result of one process, to the last bit.
        unlabelled: images with this label are left out: they are no queries, and not in the gallery.

    Returns:
        The metrics; definitions are in ``nearfar.evaluate.metrics``.

    Raises:
        NearfarError: if shapes or values do not fit, or if no query has a relevant candidate.

    Reference:
        Musgrave et al., ECCV 2020 (MAP@R). https://arxiv.org/abs/2003.08505
    """
    queries = as_rows(embeddings, "embeddings")
    alone = gallery is None
    gallery_rows = queries if gallery is None else as_rows(gallery, "gallery")
    sides = build_sides(
        len(queries),
        len(gallery_rows),
        alone=alone,
        labels=(labels, gallery_labels),
        ids=(ids, gallery_ids),
        cameras=(cameras, gallery_cameras),
        sequences=(sequences, gallery_sequences),
        relevant=relevant,
        junk=junk,
        unlabelled=unlabelled,
    )
    if sides.kept is not None:
        gallery_rows = gallery_rows[sides.kept]
    device = embeddings.device if isinstance(embeddings, Tensor) else torch.device("cpu")
    comparison = EmbeddingComparison(queries, gallery_rows, similarity=similarity, device=device)
    return evaluate(
        comparison,
        sides,
        Options(
            ks=ks,  # pyrefly: ignore
            ties=ties,
            no_relevant=no_relevant,
            average=average,
            bootstrap=bootstrap,
            resample=resample,
            seed=seed,
            cmc_length=cmc_length,
        ),
        tile=tile,
        workers=workers,
        similarity=similarity,
        across_ranks=across_ranks,
    )


def retrieval_by_distance(
    distances: Tensor | np.ndarray | DistanceRows,
    labels: Array | None = None,
    gallery_labels: Array | None = None,
    *,
    ids: Array | None = None,
    gallery_ids: Array | None = None,
    cameras: Array | None = None,
    gallery_cameras: Array | None = None,
    sequences: Array | None = None,
    gallery_sequences: Array | None = None,
    relevant: Any = None,
    junk: Any = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    ties: Ties = "index",
    no_relevant: NoRelevant = "skip",
    average: Average = "micro",
    bootstrap: int = 0,
    resample: Resample = "class",
    seed: int = 0,
    cmc_length: int = 50,
    workers: int | None = None,
    unlabelled: int | None = None,
) -> RetrievalResult:
    """As ``retrieval``, from distances [q, g] that are given, for example after re-ranking.

    Distances are taken as they are: smaller is nearer, equal means tied. With neither gallery labels nor
    gallery ids the distances are those of a set with itself, and no image finds itself. Arguments that are
    not named here are those of ``retrieval``.

    Args:
        distances: [q, g], or a ``KReciprocal``, which makes them row by row.
        labels: of the rows.
        gallery_labels: labels of the columns; left out for a set with itself.
        gallery_ids: ids of the columns.
        relevant: as in ``retrieval``; the columns are then a gallery of their own.

    Returns:
        The metrics.

    Raises:
        NearfarError: as ``retrieval``; or if a set with itself has a matrix that is not square.
    """
    matrix = distances if isinstance(distances, DistanceRows) else as_rows(distances, "distances")
    alone = gallery_labels is None and gallery_ids is None and relevant is None
    if alone and matrix.shape[0] != matrix.shape[1]:
        raise NearfarError(
            f"distances has shape {matrix.shape}; give gallery_labels, or a square "
            "matrix of a set with itself."
        )
    sides = build_sides(
        *matrix.shape,
        alone=alone,
        labels=(labels, gallery_labels),
        ids=(ids, gallery_ids),
        cameras=(cameras, gallery_cameras),
        sequences=(sequences, gallery_sequences),
        relevant=relevant,
        junk=junk,
        unlabelled=unlabelled,
    )
    comparison = GivenComparison(matrix, sides.kept)
    return evaluate(
        comparison,
        sides,
        Options(
            ks=ks,  # pyrefly: ignore
            ties=ties,
            no_relevant=no_relevant,
            average=average,
            bootstrap=bootstrap,
            resample=resample,
            seed=seed,
            cmc_length=cmc_length,
        ),
        tile=None,
        workers=workers,
        similarity="distances given",
    )
