"""Which queries to show: best, median and worst; the classes most often mixed; labels that may be wrong."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from nearfar.evaluate import neighbours

BLOCK = 1024


@dataclass(frozen=True)
class Row:
    """One query with its nearest pictures; ``right[i]`` says whether neighbour i has the query's class."""

    query: int
    neighbours: list[int]
    similarity: list[float]
    right: list[bool]


@dataclass(frozen=True)
class Margins:
    """Similarity of each query to its nearest right and its nearest wrong picture, -inf where none is."""

    positive: Float32[np.ndarray, " query"]
    negative: Float32[np.ndarray, " query"]

    @property
    def margin(self) -> np.ndarray:
        return self.positive - self.negative

    @property
    def answerable(self) -> np.ndarray:
        """Queries that have a right answer at all."""
        return np.isfinite(self.positive)


@dataclass(frozen=True)
class Confusion:
    """Two classes and how often the nearest picture of a query of one was of the other."""

    classes: tuple[int, int]
    count: int
    queries: int
    example: tuple[int, int]
    similarity: float


@dataclass(frozen=True)
class Twin:
    """Two pictures that look more alike than their labels or splits allow."""

    first: int
    second: int
    similarity: float


def blocks(
    anchors: Float32[np.ndarray, "n dim"], candidates: Float32[np.ndarray, "m dim"]
) -> Iterator[tuple[int, Float32[np.ndarray, "block m"]]]:
    """Yield the similarities of a block of anchors to every candidate, never the whole matrix."""
    for start in range(0, len(anchors), BLOCK):
        yield start, anchors[start : start + BLOCK] @ candidates.T


def margins(embeddings: Float32[np.ndarray, "n dim"], labels: Int64[np.ndarray, " n"]) -> Margins:
    """Measure how far each query's nearest right answer is ahead of its nearest wrong one."""
    positive = np.full(len(labels), -np.inf, np.float32)
    negative = np.full(len(labels), -np.inf, np.float32)
    for start, similarity in blocks(embeddings, embeddings):
        rows = np.arange(start, start + len(similarity))
        same = labels[rows, None] == labels[None, :]
        negative[rows] = np.where(same, -np.inf, similarity).max(axis=1)
        same[np.arange(len(rows)), rows] = False
        positive[rows] = np.where(same, similarity, -np.inf).max(axis=1)
    return Margins(positive, negative)


def nearest(
    embeddings: Float32[np.ndarray, "n dim"], k: int, queries: Int64[np.ndarray, " q"] | None = None
) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
    """Return the ids and similarities of the ``k`` pictures nearest to each query, itself left out."""
    everyone = np.arange(len(embeddings), dtype=np.int64)
    queries = everyone if queries is None else np.asarray(queries, np.int64)
    k = min(k, len(embeddings) - 1)
    if k < 1:
        return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    found = neighbours(embeddings[queries], embeddings, k, ids=queries, gallery_ids=everyone)
    return found.ids, np.clip(found.similarity, -1.0, 1.0)


def rows_of(
    embeddings: Float32[np.ndarray, "n dim"], labels: Int64[np.ndarray, " n"], queries: Sequence[int], k: int
) -> list[Row]:
    """Return the queries with their ``k`` nearest pictures, ready to be shown."""
    if not len(queries):
        return []
    ids, values = nearest(embeddings, k, np.asarray(queries, np.int64))
    return [
        Row(int(query), near.tolist(), value.tolist(), (labels[near] == labels[query]).tolist())
        for query, near, value in zip(queries, ids, values, strict=True)
    ]


def one_a_class(order: Sequence[int] | np.ndarray, labels: Int64[np.ndarray, " n"], count: int) -> list[int]:
    """Take the first ``count`` queries of an order, no class twice while another class is left."""
    order = [int(query) for query in order]
    seen: set[int] = set()
    chosen = []
    for query in order:
        if int(labels[query]) not in seen:
            seen.add(int(labels[query]))
            chosen.append(query)
    chosen += [query for query in order if query not in set(chosen)]
    return chosen[:count]


def best_median_worst(found: Margins, labels: Int64[np.ndarray, " n"], count: int) -> dict[str, list[int]]:
    """Choose queries by their margin: the largest, those around the middle, the smallest; none twice."""
    able = np.flatnonzero(found.answerable)
    order = able[np.argsort(-found.margin[able], kind="stable")]
    part = min(count, max(1, len(order) // 3)) if len(order) else 0
    best = one_a_class(order[: max(part, len(order) // 4)], labels, part)
    worst_pool = [query for query in order[::-1][: max(part, len(order) // 4)] if query not in set(best)]
    worst = one_a_class(worst_pool, labels, part)
    taken = {*best, *worst}
    by_middle = sorted(range(len(order)), key=lambda place: abs(place - len(order) // 2))
    median_pool = [int(order[place]) for place in by_middle if int(order[place]) not in taken]
    median = one_a_class(median_pool[: max(part, len(order) // 10)], labels, part)
    return {"best": best, "median": median, "worst": worst}


def strip_queries(
    able: Bool[np.ndarray, " n"],
    right: Bool[np.ndarray, " n"],
    labels: Int64[np.ndarray, " n"],
    seed: int,
    count: int = 6,
) -> list[int]:
    """Draw the queries of the strip: at random, one a class, right and wrong in their true proportion.

    Nothing is picked by hand: where 83 of 100 queries are right, five of the six shown are right.

    Args:
        able: which queries have a right answer at all.
        right: which of them find one first.
    """
    mixed = np.random.default_rng(seed).permutation(np.flatnonzero(able))
    if not len(mixed):
        return list(range(min(count, len(labels))))
    good, bad = mixed[right[mixed]], mixed[~right[mixed]]
    wrong_count = max(min(round(count * len(bad) / len(mixed)), len(bad)), count - len(good))
    chosen = one_a_class(good, labels, count - wrong_count)
    used = {int(labels[query]) for query in chosen}
    fresh = [int(query) for query in bad if int(labels[query]) not in used]
    stale = [int(query) for query in bad if int(labels[query]) in used]
    return [*chosen, *one_a_class([*fresh, *stale], labels, wrong_count)]


def confusions(
    ids: Int64[np.ndarray, "n k"],
    similarity: Float32[np.ndarray, "n k"],
    labels: Int64[np.ndarray, " n"],
    answerable: np.ndarray,
    count: int = 8,
) -> list[Confusion]:
    """The pairs of classes that stand first for each other most often, with their most alike pictures."""
    if not ids.shape[1]:
        return []
    wrong = np.flatnonzero((labels[ids[:, 0]] != labels) & answerable)
    pairs: dict[tuple[int, int], list[int]] = {}
    for query in wrong:
        first, second = sorted((int(labels[query]), int(labels[ids[query, 0]])))
        pairs.setdefault((first, second), []).append(int(query))
    sizes = Counter(labels[answerable].tolist())
    found = []
    for classes, queries in pairs.items():
        example = max(queries, key=lambda query: float(similarity[query, 0]))
        found.append(
            Confusion(
                classes,
                len(queries),
                sizes[classes[0]] + sizes[classes[1]],
                (example, int(ids[example, 0])),
                float(similarity[example, 0]),
            )
        )
    return sorted(found, key=lambda pair: (-pair.count, -pair.similarity))[:count]


def suspects(
    ids: Int64[np.ndarray, "n k"],
    similarity: Float32[np.ndarray, "n k"],
    labels: Int64[np.ndarray, " n"],
) -> list[Twin]:
    """Pictures whose label is likely wrong: their four nearest all belong to one other class."""
    near = ids[:, :4]
    if near.shape[1] < 4:
        return []
    other = labels[near]
    alone = (other == other[:, :1]).all(axis=1) & (other[:, 0] != labels)
    rows = np.flatnonzero(alone)
    rows = rows[np.argsort(-similarity[rows, 0], kind="stable")]
    return [Twin(int(row), int(ids[row, 0]), float(similarity[row, 0])) for row in rows]


def twins(
    anchors: Float32[np.ndarray, "n dim"],
    candidates: Float32[np.ndarray, "m dim"],
    allowed: Callable[[np.ndarray, int], np.ndarray],
    threshold: float,
) -> list[Twin]:
    """Every anchor whose nearest allowed candidate is at least ``threshold`` near, the nearest first.

    Args:
        allowed: from the rows of a block and the number of candidates to a mask of pairs to look at.
    """
    found = []
    for start, similarity in blocks(anchors, candidates):
        rows = np.arange(start, start + len(similarity))
        similarity[~allowed(rows, len(candidates))] = -np.inf
        best = similarity.argmax(axis=1)
        value = similarity[np.arange(len(rows)), best]
        found += [
            Twin(int(row), int(column), min(float(high), 1.0))
            for row, column, high in zip(rows, best, value, strict=True)
            if high >= threshold
        ]
    return sorted(found, key=lambda twin: -twin.similarity)
