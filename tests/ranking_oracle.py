"""Retrieval metrics as their definitions say: one order of the gallery, nested loops, float64."""

import math
from itertools import permutations, product

METRICS = [
    "recall_at_k",
    "precision_at_k",
    "precision_at_min_r_k",
    "precision_at_min_last_k",
    "irrecall_at_k",
    "map_at_k_over_r",
    "map_at_k_over_min_r_k",
    "map_at_k_over_hits",
    "ndcg_at_k",
]


def of_order(relevance: list[bool], ks: tuple[int, ...]) -> dict[str, float]:
    """Every metric of one query from the relevance of its candidates, nearest first; at least one is True."""
    ranks = [i + 1 for i, hit in enumerate(relevance) if hit]
    total, values = len(ranks), {}
    for k in ks:
        hits = sum(rank <= k for rank in ranks)
        precisions = sum((j + 1) / rank for j, rank in enumerate(ranks) if rank <= k)
        ideal = sum(1 / math.log2(i + 1) for i in range(1, min(total, k) + 1))
        values |= {
            f"recall_at_{k}": float(hits > 0),
            f"precision_at_{k}": hits / k,
            f"precision_at_min_r_{k}": hits / min(total, k),
            f"precision_at_min_last_{k}": hits / min(ranks[-1], k),
            f"irrecall_at_{k}": hits / total,
            f"map_at_{k}_over_r": precisions / total,
            f"map_at_{k}_over_min_r_{k}": precisions / min(total, k),
            f"map_at_{k}_over_hits": precisions / hits if hits else 0.0,
            f"ndcg_at_{k}": sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k) / ideal,
        }
    values["r_precision"] = sum(rank <= total for rank in ranks) / total
    values["map_at_r"] = sum((j + 1) / rank for j, rank in enumerate(ranks) if rank <= total) / total
    values["map"] = sum((j + 1) / rank for j, rank in enumerate(ranks)) / total
    trapezoids = [
        ((j / (rank - 1) if rank > 1 else 1.0) + (j + 1) / rank) / 2 for j, rank in enumerate(ranks)
    ]
    values["map_trapezoid"] = sum(trapezoids) / total
    values["mrr"] = 1 / ranks[0]
    values["minp"] = total / ranks[-1]
    return values


def of_query(
    scores: list[float], relevant: list[bool], kept: list[bool], ties: str, ks: tuple[int, ...]
) -> dict[str, float] | None:
    """Every metric of one query under a rule for ties; None without a relevant candidate."""
    candidates = [j for j in range(len(scores)) if kept[j]]
    if not any(relevant[j] for j in candidates):
        return None
    first = {
        "index": lambda j: j,
        "optimistic": lambda j: not relevant[j],
        "pessimistic": lambda j: relevant[j],
        "expected": lambda j: j,
    }[ties]
    order = sorted(candidates, key=lambda j: (-scores[j], first(j)))
    if ties != "expected":
        return of_order([relevant[j] for j in order], ks)
    groups: dict[float, list[bool]] = {}
    for j in order:
        groups.setdefault(scores[j], []).append(relevant[j])
    each = [
        of_order([hit for group in choice for hit in group], ks)
        for choice in product(*(list(permutations(group)) for group in groups.values()))
    ]
    return {name: sum(values[name] for values in each) / len(each) for name in each[0]}
