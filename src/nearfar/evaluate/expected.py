"""Expected metrics of one query over all orders of its ties, in closed form.

A tie group has n candidates of which r are relevant; ``ahead`` candidates stand in front of it, ``found`` of
them relevant. Inside the group every order is equally likely, so at position i of the group (from 1)

    P(relevant at i) = r/n        E[relevant up to i | relevant at i] = found + 1 + (i-1)(r-1)/(n-1)

and the numbers of relevant items in a first part of the group are hypergeometric. No sampling.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float64

from nearfar.evaluate.metrics import at_name, column_names
from nearfar.evaluate.ranks import Ranks


@dataclass(frozen=True)
class _Group:
    """A tie group that holds at least one relevant item."""

    ahead: int
    n: int
    r: int
    found: int


def expected_metrics(
    ranks: Ranks, row: int, ks: tuple[int, ...], length: int
) -> tuple[Float64[np.ndarray, " metric"], Float64[np.ndarray, " length"]]:
    """Expected metrics (as ``measure``) and expected CMC curve (as ``first_hit``) of one query.

    Args:
        ranks: the ranks of several queries.
        row: which of them.
        ks: cut-offs.
        length: length of the CMC curve.

    Returns:
        A row of metrics and a curve.
    """
    start, stop = np.searchsorted(ranks.rows, [row, row + 1])
    ahead, at = np.unique(ranks.better[start:stop], return_index=True)
    tied, relevant = ranks.tied[start:stop][at], ranks.tied_relevant[start:stop][at]
    found = np.cumsum(relevant) - relevant
    groups = tuple(_Group(*map(int, values)) for values in zip(ahead, tied, relevant, found, strict=True))
    values, curve = _of_groups(groups, ks, length)
    return np.array(values), np.array(curve)


@lru_cache(maxsize=4096)
def _of_groups(
    groups: tuple[_Group, ...], ks: tuple[int, ...], length: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    total = sum(group.r for group in groups)
    last_rank = groups[-1].ahead + groups[-1].n
    # At each position inside the groups: where it is, P(relevant), E[relevant up to there | relevant there].
    place = np.concatenate([group.ahead + np.arange(1, group.n + 1) for group in groups])
    chance = np.concatenate([np.full(group.n, group.r / group.n) for group in groups])
    rank = np.concatenate(
        [group.found + 1 + np.arange(group.n) * (group.r - 1) / max(group.n - 1, 1) for group in groups]
    )
    precision = chance * rank / place
    before = chance * np.divide(rank - 1, place - 1, out=np.ones(len(place)), where=place > 1)
    gain = chance / np.log2(place + 1.0)
    # P(first relevant at place), P(last relevant at place)
    first, last = groups[0], groups[-1]
    first_chance = _first(first.n, first.r)
    last_chance = _first(last.n, last.r)[::-1]
    curve = np.zeros(min(max(length, *ks), last_rank))  # certain from there on
    inside = first_chance[: max(0, len(curve) - first.ahead)]
    curve[first.ahead : first.ahead + len(inside)] = inside
    curve = np.minimum(np.cumsum(curve), 1.0)
    # Certain as soon as no irrelevant one of the group could still stand in front.
    curve[first.ahead + first.n - first.r :] = 1.0
    values: dict[str, float] = {}
    for k in ks:
        cut = place <= k
        hits, short = _hits(groups, k), min(total, k)
        values[at_name("recall_at_k", k)] = curve[min(k, len(curve)) - 1]
        values[at_name("precision_at_k", k)] = hits / k
        values[at_name("precision_at_min_r_k", k)] = hits / short
        values[at_name("precision_at_min_last_k", k)] = _precision_to_last(last, total, k, hits)
        values[at_name("irrecall_at_k", k)] = hits / total
        values[at_name("map_at_k_over_r", k)] = precision[cut].sum() / total
        values[at_name("map_at_k_over_min_r_k", k)] = precision[cut].sum() / short
        values[at_name("map_at_k_over_hits", k)] = _precision_over_hits(groups, k)
        values[at_name("ndcg_at_k", k)] = gain[cut].sum() / (1 / np.log2(np.arange(2, short + 2))).sum()
    cut = place <= total
    values["r_precision"] = _hits(groups, total) / total
    values["map_at_r"] = precision[cut].sum() / total
    values["map"] = precision.sum() / total
    values["map_trapezoid"] = (before + precision).sum() / 2 / total
    values["mrr"] = (first_chance / (first.ahead + np.arange(1, len(first_chance) + 1))).sum()
    ends = np.arange(last_rank - len(last_chance) + 1, last_rank + 1)
    values["minp"] = (last_chance * total / ends).sum()
    whole = np.append(curve[:length], np.ones(max(0, length - len(curve))))
    # None is above 1, and the sum of many chances is at times by its rounding.
    return tuple(min(float(values[name]), 1.0) for name in column_names(ks)), tuple(whole.tolist())


def _hits(groups: tuple[_Group, ...], k: int) -> float:
    """E[relevant ones among the first k]: all of a group that lies there whole."""
    return sum(group.r * (min(max(k - group.ahead, 0), group.n) / group.n) for group in groups)


def _first(n: int, r: int) -> Float64[np.ndarray, " place"]:
    """P(the first of r relevant among n stands at i), i = 1 … n-r+1: C(n-i, r-1) / C(n, r)."""
    i = np.arange(1, n - r + 1)
    return (r / n) * np.concatenate([[1.0], np.cumprod((n - i - r + 1) / (n - i))])


def _drawn(n: int, r: int, m: int) -> tuple[Float64[np.ndarray, " h"], Float64[np.ndarray, " h"]]:
    """Possible numbers h of relevant ones among the first m of n, and their probabilities."""
    h = torch.arange(max(0, m - (n - r)), min(m, r) + 1, dtype=torch.float64)

    def log_choose(top: torch.Tensor, bottom: torch.Tensor) -> torch.Tensor:
        return torch.lgamma(top + 1) - torch.lgamma(bottom + 1) - torch.lgamma(top - bottom + 1)

    size, relevant, part = (torch.tensor(float(x), dtype=torch.float64) for x in (n, r, m))
    log = log_choose(relevant, h) + log_choose(size - relevant, part - h) - log_choose(size, part)
    chance = torch.exp(log)
    return h.numpy(), (chance / chance.sum()).numpy()


def _precision_to_last(last: _Group, total: int, k: int, hits: float) -> float:
    """E[hits(m) / m] with m = min(k, rank of the last relevant item)."""
    if k <= last.ahead:
        return float(hits / k)
    part = min(k - last.ahead, last.n)
    # P(the last relevant item stands at place l of the group), l = r … n
    at = _first(last.n, last.r)[::-1]
    ends = np.arange(last.r, last.n + 1)
    inside = ends <= part
    done = float((at[inside] * total / (last.ahead + ends[inside])).sum())
    if part == last.n:
        return done
    h, chance = _drawn(last.n, last.r, part)
    open_ = h < last.r
    return done + float((chance[open_] * (last.found + h[open_])).sum()) / k


def _precision_over_hits(groups: tuple[_Group, ...], k: int) -> float:
    """E[Σ_{r_j ≤ k} j/r_j / hits(k)], 0 without hits."""
    total, hits = 0.0, 0
    for group in groups:
        part = min(k - group.ahead, group.n)
        if part <= 0:
            break
        i = np.arange(1, part + 1)
        h, chance = _drawn(group.n, group.r, part)
        if part == group.n:
            total += _partial(group, i, np.array([float(group.r)]), part)[0]
            hits += group.r
            continue
        sums = total + _partial(group, i, h, part)
        return float((chance * np.divide(sums, hits + h, out=np.zeros(len(h)), where=hits + h > 0)).sum())
    return total / hits if hits else 0.0


def _partial(
    group: _Group, i: np.ndarray, h: Float64[np.ndarray, " h"], part: int
) -> Float64[np.ndarray, " h"]:
    """E[Σ j/r_j over the first ``part`` of the group | h relevant ones there]."""
    rank = group.found + 1 + (i - 1) * (h[:, None] - 1) / max(part - 1, 1)
    return (h[:, None] / part * rank / (group.ahead + i)).sum(axis=1)
