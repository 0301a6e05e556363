"""Metrics of each query from the ranks of its relevant items.

For a query with R relevant candidates at ranks r_1 < … < r_R, and hits(K) = #{j : r_j ≤ K}:

    recall_at_k                1 if hits(K) > 0      (Recall@K of metric learning, CMC@K)
    precision_at_k             hits(K) / K
    precision_at_min_r_k       hits(K) / min(R, K)
    precision_at_min_last_k    hits(K) / min(r_R, K)              (mP@K of Revisited Oxford and Paris)
    irrecall_at_k              hits(K) / R           (recall of information retrieval)
    map_at_k_over_r            Σ_{r_j ≤ K} j/r_j / R
    map_at_k_over_min_r_k      Σ_{r_j ≤ K} j/r_j / min(R, K)      (Google Landmarks)
    map_at_k_over_hits         Σ_{r_j ≤ K} j/r_j / hits(K), 0 without hits
    ndcg_at_k                  Σ_{r_j ≤ K} 1/log2(r_j + 1) / Σ_{i ≤ min(R, K)} 1/log2(i + 1)
    r_precision                hits(R) / R
    map_at_r                   Σ_{r_j ≤ R} j/r_j / R              (Musgrave et al. 2020)
    map                        Σ_j j/r_j / R                      (non-interpolated)
    map_trapezoid              Σ_j ((j-1)/(r_j - 1) [1 if r_j = 1] + j/r_j) / 2 / R  (Oxford, old Market)
    mrr                        1 / r_1
    minp                       R / r_R                            (Ye et al. 2020)

The names are those of the mean over queries; the value of one query has the same name.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from nearfar.evaluate.ranks import Ranks

Ties = Literal["index", "optimistic", "pessimistic", "expected"]

AT_K = (
    "recall_at_k",
    "precision_at_k",
    "precision_at_min_r_k",
    "precision_at_min_last_k",
    "irrecall_at_k",
    "map_at_k_over_r",
    "map_at_k_over_min_r_k",
    "map_at_k_over_hits",
    "ndcg_at_k",
)
WHOLE = ("r_precision", "map_at_r", "map", "map_trapezoid", "mrr", "minp")


def column_names(ks: tuple[int, ...]) -> list[str]:
    """Names of the columns of a table of metrics: ``recall_at_1``, …, ``minp``."""
    return [at_name(name, k) for name in AT_K for k in ks] + list(WHOLE)


def at_name(name: str, k: int) -> str:
    """``recall_at_k`` with k = 8 is ``recall_at_8``."""
    return name.replace("_k", f"_{k}")


def order_ties(ranks: Ranks, ties: Ties) -> Int64[np.ndarray, " pair"]:
    """Rank of each relevant item, from 1, with ties in the order asked for ("expected" as "index")."""
    if ties in ("index", "expected"):
        return ranks.better + ranks.before + 1
    new = np.ones(len(ranks.rows), bool)
    new[1:] = (ranks.rows[1:] != ranks.rows[:-1]) | (ranks.better[1:] != ranks.better[:-1])
    start = np.flatnonzero(new)
    inside = np.arange(len(new)) - start[np.cumsum(new) - 1]
    irrelevant_first = ranks.tied - ranks.tied_relevant if ties == "pessimistic" else 0
    return ranks.better + irrelevant_first + inside + 1


def measure(
    ranks: Ranks, rank: Int64[np.ndarray, " pair"], ks: tuple[int, ...]
) -> Float64[np.ndarray, "some metric"]:
    """Every metric of each query; columns as ``column_names``, NaN for a query with nothing relevant.

    Args:
        ranks: which query each entry belongs to, and how many each has.
        rank: rank of each relevant item, ascending within a query.
        ks: cut-offs.

    Returns:
        One row for each query.
    """
    n, rows = len(ranks.queries), ranks.rows
    count = ranks.counts.astype(np.float64)
    offset = np.cumsum(ranks.counts) - ranks.counts
    j = np.arange(len(rows)) - offset[rows] + 1.0
    term = j / rank
    before = np.divide(j - 1, rank - 1, out=np.ones(len(rows)), where=rank > 1)
    gain = 1 / np.log2(rank + 1.0)
    some = ranks.counts > 0
    first, last = np.full(n, np.nan), np.full(n, np.nan)
    first[some] = rank[offset[some]]
    last[some] = rank[(offset + ranks.counts - 1)[some]]

    def total(mask: np.ndarray, values: Float64[np.ndarray, " pair"]) -> Float64[np.ndarray, " some"]:
        return np.bincount(rows, weights=values * mask, minlength=n).astype(np.float64)

    ones = np.ones(len(rows))
    most = min(max(ks), int(ranks.counts.max(initial=0)))
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, most + 2)))])
    columns: dict[str, Float64[np.ndarray, " some"]] = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for k in ks:
            inside = rank <= k
            hits, precisions = total(inside, ones), total(inside, term)
            short = np.minimum(count, k)
            columns[at_name("recall_at_k", k)] = (hits > 0).astype(np.float64)
            columns[at_name("precision_at_k", k)] = hits / k
            columns[at_name("precision_at_min_r_k", k)] = hits / short
            columns[at_name("precision_at_min_last_k", k)] = hits / np.minimum(last, k)
            columns[at_name("irrecall_at_k", k)] = hits / count
            columns[at_name("map_at_k_over_r", k)] = precisions / count
            columns[at_name("map_at_k_over_min_r_k", k)] = precisions / short
            columns[at_name("map_at_k_over_hits", k)] = precisions / np.maximum(hits, 1)
            columns[at_name("ndcg_at_k", k)] = total(inside, gain) / ideal[short.astype(np.int64)]
        inside = rank <= count[rows]
        columns["r_precision"] = total(inside, ones) / count
        columns["map_at_r"] = total(inside, term) / count
        columns["map"] = total(ones > 0, term) / count
        columns["map_trapezoid"] = total(ones > 0, (before + term) / 2) / count
        columns["mrr"] = 1 / first
        columns["minp"] = count / last
    table = np.stack([columns[name] for name in column_names(ks)], axis=1)
    table[~some] = np.nan
    return table


def first_hit(
    ranks: Ranks, rank: Int64[np.ndarray, " pair"], length: int
) -> Float64[np.ndarray, "some length"]:
    """For each query and each K = 1 … length: 1 if a relevant item is among the first K, else 0."""
    curve = np.zeros((len(ranks.queries), length))
    some = ranks.counts > 0
    first = rank[(np.cumsum(ranks.counts) - ranks.counts)[some]]
    curve[some] = first[:, None] <= np.arange(1, length + 1)
    return curve


def tie_sensitive(ranks: Ranks) -> np.ndarray:
    """For each query, whether a relevant item ties with an irrelevant one: AP then depends on their order."""
    mixed = np.bincount(ranks.rows[ranks.tied > ranks.tied_relevant], minlength=len(ranks.queries))
    return mixed > 0
