"""The losses and mining rules as loops over the papers' formulas, in float64: what the tests compare with."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Row:
    """One anchor: similarities of its positives, of its negatives, and the triplets chosen among them."""

    positives: list[Tensor]
    negatives: list[Tensor]
    triplets: list[tuple[Tensor, Tensor]]


def similarity(x: Tensor, y: Tensor, measure: str) -> Tensor:
    if measure == "cosine":
        return (x @ y) / (x.norm() * y.norm())
    if measure == "dot":
        return x @ y
    square = ((x - y) ** 2).sum()
    if measure == "squared_euclidean":
        return -square
    return -square.sqrt() if square > 0 else 0 * square


def rows(x: Tensor, labels: Tensor, measure: str, mining: str | None, margin: float = 0.2) -> list[Row]:
    found = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        p = [similarity(x[i], x[j], measure) for j in others if labels[j] == labels[i]]
        n = [similarity(x[i], x[j], measure) for j in others if labels[j] != labels[i]]
        found.append(mine(p, n, mining, margin))
    return found


def mine(p: list[Tensor], n: list[Tensor], mining: str | None, margin: float) -> Row:
    if mining == "hard":
        p, n = ([min(p)] if p else []), ([max(n)] if n else [])
    elif mining == "multi_similarity":
        kept_n = [s for s in n if p and s + 0.1 > min(p)]
        kept_p = [s for s in p if n and s - 0.1 < max(n)]
        p, n = kept_p, kept_n
    elif mining == "semi_hard":
        triplets = []
        for s in p:
            farther = [t for t in n if t < s]
            if farther and max(farther) > s - margin:
                triplets.append((s, max(farther)))
        distinct = {id(t): t for _, t in triplets}
        return Row([s for s, _ in triplets], list(distinct.values()), triplets)
    return Row(p, n, [(s, t) for s in p for t in n])


def multi_similarity(row: Row, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5) -> Tensor:
    pull = torch.log(1 + sum((torch.exp(-alpha * (s - base)) for s in row.positives), torch.tensor(0.0)))
    push = torch.log(1 + sum((torch.exp(beta * (s - base)) for s in row.negatives), torch.tensor(0.0)))
    return pull / alpha + push / beta


def supcon(row: Row, temperature: float = 0.1) -> Tensor:
    if not row.positives:
        return torch.tensor(0.0, dtype=torch.float64)
    everyone = sum(torch.exp(s / temperature) for s in row.positives + row.negatives)
    return -sum(torch.log(torch.exp(s / temperature) / everyone) for s in row.positives) / len(row.positives)


def contrastive(row: Row, near: float = 1.0, far: float = 0.5) -> Tensor:
    zero = torch.tensor(0.0, dtype=torch.float64)
    pull = sum((torch.clamp(near - s, min=0) for s in row.positives), zero)
    return pull + sum((torch.clamp(s - far, min=0) for s in row.negatives), zero)


def triplet(row: Row, margin: float = 0.2) -> Tensor:
    zero = torch.tensor(0.0, dtype=torch.float64)
    return sum((torch.clamp(n - p + margin, min=0) for p, n in row.triplets), zero)


per_anchor: dict[str, Callable[..., Tensor]] = {
    "multi_similarity": multi_similarity,
    "supcon": supcon,
    "contrastive": contrastive,
    "triplet": triplet,
}
