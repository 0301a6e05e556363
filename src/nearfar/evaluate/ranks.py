"""Ranks of the relevant items, exact, without sorting the gallery and without the full matrix.

Every metric of retrieval is a function of the ranks of the relevant items. The rank of an item is one more
than the number of candidates with a larger score, so ranks are counts:

1. The exact score of each relevant pair gives two thresholds, just below and just above its float32 value.
2. A strip of float32 scores (some queries by the whole gallery) is cut at the lowest threshold of its query,
   what remains is sorted, and both thresholds are looked up.
3. Candidates between the two thresholds, if there are others than the item itself, are scored exactly.

Queries with too many near-ties (a collapsed model), or with so many relevant items that step 1 would cost
more than a float64 product, are ranked in float64 over the whole gallery instead. Both give the same counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from nearfar.evaluate.comparison import Comparison
from nearfar.evaluate.protocol import Columns, RetrievalProtocol, Rows

_STRIP_BYTES = 2**25
_SORT_ALL_ABOVE = (
    0.08  # share of a row above its lowest threshold from which sorting the whole row is cheaper
)
_EXACT_BELOW = 64  # gallery rows for each relevant item under which a float64 product is cheaper


@dataclass(frozen=True)
class Ranks:
    """Where the relevant items of some queries stand; one entry for each relevant pair.

    Entries are ordered by query, then by rank. Inside a tie, items stand in the order of their gallery rows.
    """

    queries: Int64[np.ndarray, " some"]
    n_candidates: Int64[np.ndarray, " some"]
    counts: Int64[np.ndarray, " some"]  # R, relevant items of each query
    rows: Int64[np.ndarray, " pair"]  # position in ``queries``
    better: Int64[np.ndarray, " pair"]  # candidates with a larger score
    tied: Int64[np.ndarray, " pair"]  # candidates with the same score, the item itself included
    tied_relevant: Int64[np.ndarray, " pair"]  # those of them that are relevant
    before: Int64[np.ndarray, " pair"]  # those of them with a lower gallery row


def count_ranks(
    comparison: Comparison,
    protocol: RetrievalProtocol,
    queries: Int64[np.ndarray, " some"],
    tile: int | None = None,
) -> Ranks:
    """Count the candidates in front of each relevant item of some queries.

    Args:
        comparison: scores.
        protocol: relevance and exclusions.
        queries: which queries.
        tile: rows and columns of one float32 product; changes time and memory, never a rank.

    Returns:
        The ranks of all relevant items of these queries.
    """
    excluded = protocol.excluded(queries)
    rows, columns = protocol.relevant(queries, excluded)
    counts = np.bincount(rows, minlength=len(queries))
    found = _Counts(len(rows))
    by_float64 = np.full(len(queries), not comparison.has_strips) | (
        counts * _EXACT_BELOW > protocol.n_gallery
    )
    screened = np.flatnonzero(~by_float64 & (counts > 0))
    if len(screened):
        crowded = _count_in_strips(comparison, queries, screened, excluded, rows, columns, found, tile)
        by_float64[crowded] = True
    exact = np.flatnonzero(by_float64 & (counts > 0))
    _count_in_float64(comparison, queries, exact, excluded, rows, columns, found)
    order = np.lexsort((found.before, found.better, rows))
    return Ranks(
        queries=queries,
        n_candidates=protocol.n_gallery - np.bincount(excluded[0], minlength=len(queries)),
        counts=counts,
        rows=rows,
        better=found.better[order],
        tied=found.tied[order],
        tied_relevant=found.tied_relevant[order],
        before=found.before[order],
    )


class _Counts:
    """The counts of each relevant pair, while they are found."""

    def __init__(self, n: int) -> None:
        self.better, self.before = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.tied, self.tied_relevant = np.ones(n, np.int64), np.ones(n, np.int64)


def strips(
    comparison: Comparison,
    queries: Int64[np.ndarray, " some"],
    rows: Int64[np.ndarray, " screened"],
    tile: int | None,
) -> Iterator[tuple[Int64[np.ndarray, " part"], Float32[np.ndarray, "part gallery"]]]:
    """Yield float32 scores of a few rows at a time with the whole gallery; each overwrites the one before."""
    n_gallery = comparison.n_gallery
    step = min(len(rows), tile or min(max(_STRIP_BYTES // (4 * n_gallery), 32), 256))
    buffer = np.empty((step, n_gallery), np.float32)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        block = buffer[: len(part)]
        comparison.fill_strip(queries[part], block, tile)
        yield part, block


def _count_in_strips(
    comparison: Comparison,
    queries: Int64[np.ndarray, " some"],
    screened: Int64[np.ndarray, " screened"],
    excluded: tuple[Rows, Columns],
    rows: Rows,
    columns: Columns,
    found: _Counts,
    tile: int | None,
) -> list[int]:
    """Steps 1 to 3; returns the rows that have too many near-ties, which are not counted."""
    offsets = np.searchsorted(rows, np.arange(len(queries) + 1))
    out = np.searchsorted(excluded[0], np.arange(len(queries) + 1))
    scores = comparison.pairs(queries[rows], columns)
    place, error = comparison.strip_place(queries[rows], scores)
    # low ≤ strip value < high where the two can be the same score; float32, rounded away from the score.
    low = np.nextafter((place - error).astype(np.float32), np.float32(-np.inf))
    high = np.nextafter(
        np.nextafter((place + error).astype(np.float32), np.float32(np.inf)), np.float32(np.inf)
    )
    edges = np.stack([low, high])
    near_items, near_columns, crowded = [], [], []
    for part, block in strips(comparison, queries, screened, tile):
        for local, row in enumerate(part):
            line = block[local]
            line[excluded[1][out[row] : out[row + 1]]] = -np.inf
            items = slice(offsets[row], offsets[row + 1])
            at_least, kept, where = _count_above(line, edges[:, items])
            found.better[items] = at_least[1]
            within = at_least[0] - at_least[1]
            doubtful = np.flatnonzero(within != 1)
            if len(doubtful) and (within.min() < 1 or within[doubtful].sum() > 1024 + 16 * len(within)):
                crowded.append(int(row))
                continue
            for item in doubtful + items.start:
                near = where[(kept >= low[item]) & (kept < high[item])]
                near_columns.append(near)
                near_items.append(np.full(len(near), item))
    if near_items:
        item, column = np.concatenate(near_items), np.concatenate(near_columns)
        near_scores = comparison.pairs(queries[rows[item]], column)
        equal = near_scores == scores[item]
        relevant = _is_in(rows[item], column, rows, columns, comparison.n_gallery)
        n = len(rows)
        found.better += np.bincount(item[near_scores > scores[item]], minlength=n)
        found.tied += np.maximum(np.bincount(item[equal], minlength=n) - 1, 0)
        found.tied_relevant += np.maximum(np.bincount(item[equal & relevant], minlength=n) - 1, 0)
        found.before += np.bincount(item[equal & (column < columns[item])], minlength=n)
    return crowded


def _count_above(
    line: Float32[np.ndarray, " gallery"], edges: Float32[np.ndarray, "2 item"]
) -> tuple[Int64[np.ndarray, "2 item"], Float32[np.ndarray, " kept"], Int64[np.ndarray, " kept"]]:
    """For each edge the number of scores ≥ it; also the scores above the lowest edge and where they are."""
    above = line >= edges[0].min()
    share = np.count_nonzero(above)
    if share > _SORT_ALL_ABOVE * len(line):
        ordered, kept = np.sort(line), line
        at_least = len(line) - np.searchsorted(ordered, edges)
        if (at_least[0] - at_least[1] == 1).all():
            return at_least, line[:0], np.empty(0, np.int64)
        return at_least, kept, np.arange(len(line))
    kept = line[above]
    at_least = len(kept) - np.searchsorted(np.sort(kept), edges)
    if (at_least[0] - at_least[1] == 1).all():
        return at_least, line[:0], np.empty(0, np.int64)
    return at_least, kept, np.flatnonzero(above)


def _is_in(
    rows: Rows, columns: Columns, known_rows: Rows, known_columns: Columns, n_gallery: int
) -> np.ndarray:
    """Whether each pair is one of the known pairs, which are in order."""
    known, keys = known_rows * n_gallery + known_columns, rows * n_gallery + columns
    return known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys


def _count_in_float64(
    comparison: Comparison,
    queries: Int64[np.ndarray, " some"],
    exact: Int64[np.ndarray, " exact"],
    excluded: tuple[Rows, Columns],
    rows: Rows,
    columns: Columns,
    found: _Counts,
) -> None:
    """Count over whole rows in float64; near-ties get their exact score."""
    offsets = np.searchsorted(rows, np.arange(len(queries) + 1))
    out = np.searchsorted(excluded[0], np.arange(len(queries) + 1))
    step = max(1, _STRIP_BYTES // (8 * comparison.n_gallery))
    for start in range(0, len(exact), step):
        part = exact[start : start + step]
        block = comparison.rows64(queries[part])
        for local, row in enumerate(part):
            line = block[local]
            line[excluded[1][out[row] : out[row + 1]]] = -np.inf
            items = slice(offsets[row], offsets[row + 1])
            _count_in_line(comparison, int(queries[row]), line, columns[items], found, items)


def _count_in_line(
    comparison: Comparison,
    query: int,
    line: Float64[np.ndarray, " gallery"],
    columns: Columns,
    found: _Counts,
    items: slice,
) -> None:
    settled, ordered, tied = settle(comparison, query, line, line[columns])
    if not tied:
        found.better[items] = len(line) - np.searchsorted(ordered, line[columns], side="right")
        return
    scores = settled[columns]
    right = np.searchsorted(ordered, scores, side="right")
    found.better[items] = len(line) - right
    found.tied[items] = right - np.searchsorted(ordered, scores, side="left")
    relevant = np.sort(scores)
    found.tied_relevant[items] = np.searchsorted(relevant, scores, side="right") - np.searchsorted(
        relevant, scores, side="left"
    )
    for score in np.unique(scores[found.tied[items] > 1]):
        members = np.flatnonzero(settled == score)
        of_score = np.flatnonzero(scores == score)
        found.before[items.start + of_score] = np.searchsorted(members, columns[of_score])


def settle(
    comparison: Comparison,
    query: int,
    line: Float64[np.ndarray, " gallery"],
    centres: Float64[np.ndarray, " centre"],
) -> tuple[Float64[np.ndarray, " gallery"], Float64[np.ndarray, " gallery"], bool]:
    """Give candidates that nearly tie at a centre their exact score.

    Args:
        comparison: scores.
        query: whose scores these are.
        line: its float64 scores with the gallery.
        centres: the scores that matter, values out of ``line``.

    Returns:
        The scores, the same ascending, and whether there was any near-tie.
    """
    ordered = np.sort(line)
    window = comparison.window64
    low = np.searchsorted(ordered, centres - 2 * window, side="left")
    near = np.searchsorted(ordered, centres + 2 * window, side="right") - low > 1
    if not near.any():
        return line, ordered, False
    if window == 0:
        return line, ordered, True
    centre = np.unique(centres[near])
    place = np.searchsorted(centre, line)
    above, below = centre[np.minimum(place, len(centre) - 1)], centre[np.maximum(place - 1, 0)]
    doubtful = np.flatnonzero((np.abs(above - line) <= 2 * window) | (np.abs(line - below) <= 2 * window))
    settled = line.copy()
    settled[doubtful] = comparison.pairs_of_one(query, doubtful)
    return settled, np.sort(settled), True
