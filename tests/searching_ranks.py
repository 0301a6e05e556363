"""Processes that search galleries of each other; for tests/evaluate/test_sharded.py."""

import warnings
from typing import Any

import numpy as np

import rank_processes
from nearfar.errors import NearfarError
from nearfar.evaluate import Neighbours, neighbours_across_ranks, retrieval

SIMILARITIES = ("cosine", "dot", "euclidean", "squared_euclidean")
PARTS = {1: [200], 2: [3, 197], 4: [3, 110, 0, 87]}
K = 9


def rows() -> np.ndarray:
    """Every second vector is that of another row, so that ties are everywhere; ids hold some rows apart."""
    random = np.random.default_rng(0)
    x = random.standard_normal((200, 13)).astype(np.float32)
    x[100:] = x[:100]
    return x


def identities() -> np.ndarray:
    return np.arange(200) // 5


def part(size: int, own: int) -> np.ndarray:
    """Return the rows of a rank, in no order."""
    mixed = np.random.default_rng(1).permutation(200)
    start = sum(PARTS[size][:own])
    return mixed[start : start + PARTS[size][own]]


def run(size: int) -> list[dict[str, Any]]:
    """Return what each rank found."""
    return rank_processes.run(search, size, size)


def search(own: int, size: int) -> dict[str, Any]:
    """Search in all ways, as one of several ranks."""
    x, ids, mine, found = rows(), identities(), part(size, own), {}
    for similarity in SIMILARITIES:
        given: dict[str, Any] = {"k": K, "similarity": similarity}
        dealt = np.arange(own, 200, size)
        found[similarity] = {
            "among themselves": neighbours_across_ranks(x[mine], gallery_rows=mine, **given),
            "in a gallery": neighbours_across_ranks(
                x[dealt], x[mine], gallery_rows=mine, ids=ids[dealt], gallery_ids=ids[mine], **given
            ),
            "dealt": neighbours_across_ranks(x[dealt].astype(np.float64), **given),
            "measured": _measured(x, ids, similarity),
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the ties are meant to be
        found["fewer queries than ranks"] = retrieval(
            x[:3], ids[:3], gallery=x, gallery_labels=ids, ties="expected", across_ranks=True
        ).to_dict()
    few = neighbours_across_ranks(
        x[mine], x[: int(own == 0) * 4], 6, gallery_rows=np.arange(int(own == 0) * 4)
    )
    spoiled = x[mine].copy()
    spoiled[:1] = np.nan if own == 0 else spoiled[:1]
    troubles = {
        "nan": lambda: neighbours_across_ranks(spoiled, gallery_rows=mine),
        "k": lambda: neighbours_across_ranks(x[mine], k=0, gallery_rows=mine),
        "places": lambda: neighbours_across_ranks(x[: 5 if own == 0 else 50]),
        "empty": lambda: neighbours_across_ranks(x[mine], x[:0]),
    }
    return {**found, "few": few, "says": {name: _refusal(do) for name, do in troubles.items()}}


def _measured(x: np.ndarray, labels: np.ndarray, similarity: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the ties are meant to be
        result = retrieval(x, labels, similarity=similarity, ties="expected", bootstrap=20, across_ranks=True)
    return {**result.to_dict(), **result.per_query}


def _refusal(do: Any) -> str:
    try:
        do()
    except NearfarError as error:
        return str(error)
    return ""


def of_one(name: str, similarity: Any) -> Neighbours:
    """Return what one process finds."""
    from nearfar.evaluate import neighbours

    x, ids = rows(), identities()
    if name == "in a gallery":
        return neighbours(x, x, K, ids=ids, gallery_ids=ids, similarity=similarity)
    return neighbours(x.astype(np.float64) if name == "dealt" else x, k=K, similarity=similarity)
