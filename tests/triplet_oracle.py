"""The triplet losses as loops over the papers' formulas, in float64: what the tests compare with."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loss_oracle import similarity


@dataclass
class Part:
    """One anchor's terms of one sum, and how many there are to divide by."""

    terms: list[Tensor] = field(default_factory=list)
    count: float | None = None

    @property
    def total(self) -> Tensor:
        return sum(self.terms, torch.tensor(0.0, dtype=torch.float64))

    @property
    def size(self) -> float:
        return len(self.terms) if self.count is None else self.count


@dataclass
class Batch:
    """Who is whose positive and negative, and which triplets mining has left."""

    s: list[list[Tensor]]
    labels: list[int]
    positives: list[list[int]]
    negatives: list[list[int]]
    triplets: list[list[tuple[int, int]]]
    mining: str | None


def batch(x: Tensor, labels: Tensor, measure: str, mining: str | None, margin: float = 0.2) -> Batch:
    n = len(x)
    s = [[similarity(x[i], x[j], measure) for j in range(n)] for i in range(n)]
    positives, negatives, triplets = [], [], []
    for i in range(n):
        p = [j for j in range(n) if j != i and labels[j] == labels[i]]
        q = [j for j in range(n) if labels[j] != labels[i]]
        value = [float(v.detach()) for v in s[i]]
        if mining == "hard":
            p, q = sorted(p, key=lambda j: value[j])[:1], sorted(q, key=lambda j: -value[j])[:1]
        elif mining == "top_k":
            q = sorted(q, key=lambda j: -value[j])[:2]
        chosen = [(j, k) for j in p for k in q]
        if mining == "semi_hard":
            farther = {
                j: max((value[k], k) for k in q if value[k] < value[j])
                for j in p
                if any(value[k] < value[j] for k in q)
            }
            chosen = [(j, k) for j, (v, k) in farther.items() if v > value[j] - margin]
            p, q = [j for j, _ in chosen], [k for _, k in chosen]
        positives.append(p)
        negatives.append(q)
        triplets.append(chosen)
    return Batch(s, labels.tolist(), positives, negatives, triplets, mining)


def relu(value: Tensor) -> Tensor:
    return torch.clamp(value, min=0)


def margin(
    b: Batch, i: int, margin: float = 0.2, beta: float = 1.2, nu: float = 0.0, per: str = "pair"
) -> list[Part]:
    def pull(j: int) -> Tensor:
        return relu(-b.s[i][j] - beta + margin)

    def push(j: int) -> Tensor:
        return relu(beta + b.s[i][j] + margin)

    if b.mining == "semi_hard" or per == "triplet":
        terms = [term for p, n in b.triplets[i] for term in (pull(p), push(n))]
        cost = nu * beta * len(b.triplets[i])
    else:
        terms = [pull(p) for p in b.positives[i]] + [push(n) for n in b.negatives[i]]
        cost = nu * beta * len(b.positives[i])
    return [Part([*terms, torch.tensor(cost, dtype=torch.float64)] if nu else terms)]


def triplet_softmax(b: Batch, i: int) -> list[Part]:
    return [
        Part(
            [
                (torch.exp(-b.s[i][p]) / (torch.exp(-b.s[i][p]) + torch.exp(-b.s[i][n]))) ** 2
                for p, n in b.triplets[i]
            ]
        )
    ]


def triplet_weighted(
    b: Batch, i: int, margin: float = 0.3, soft: bool = False, itself: bool = False, eps: float = 0.0
) -> list[Part]:
    p, n = [-b.s[i][j] for j in b.positives[i] + [i] * itself], [-b.s[i][j] for j in b.negatives[i]]
    if not eps and not (p and n):
        return [Part([torch.tensor(0.0, dtype=torch.float64)])]
    zero = torch.tensor(0.0, dtype=torch.float64)
    top = max(p, default=zero)
    weight = [torch.exp(d - top) for d in p]
    far = sum((w * d for w, d in zip(weight, p, strict=True)), zero) / (sum(weight, zero) + eps)
    weight = [torch.exp(-d) for d in n]
    near = sum((w * d for w, d in zip(weight, n, strict=True)), zero) / (sum(weight, zero) + eps)
    apart = far - near + margin
    return [Part([torch.log(1 + torch.exp(apart)) if soft else relu(apart)])]


def rank_hard(b: Batch, i: int, margin: float = 0.5, negatives: int = 1) -> list[Part]:
    part = Part(count=2 * negatives * len(b.positives[i]))
    for p in b.positives[i]:
        hard = [j for q, j in b.triplets[i] if q == p and b.s[i][j] > b.s[i][p] - margin]
        if b.mining is None:
            hard = sorted(hard, key=lambda j: -float(b.s[i][j].detach()))[:negatives]
        for j in hard:
            part.terms += [relu(b.s[i][j] - b.s[i][p] + margin), relu(b.s[p][j] - b.s[i][p] + margin)]
    return [part]


def angular(b: Batch, i: int, alpha: float = 40.0) -> list[Part]:
    t = math.tan(math.radians(alpha)) ** 2
    part = Part()
    for p in b.positives[i]:
        negatives = [n for q, n in b.triplets[i] if q == p]
        f = [4 * t * (b.s[i][n] + b.s[p][n]) - 2 * (1 + t) * b.s[i][p] for n in negatives]
        if f:
            part.terms.append(torch.log(1 + sum(torch.exp(value) for value in f)))
    return [part]


def quadruplet(b: Batch, i: int, margin: float = 0.2, second_margin: float = 0.1) -> list[Part]:
    first, second = Part(), Part()
    for p, n in b.triplets[i]:
        first.terms.append(relu(b.s[i][n] - b.s[i][p] + margin))
        fourth = [b.s[n][k] for k in range(len(b.s)) if b.labels[k] not in (b.labels[n], b.labels[i])]
        if fourth:
            second.terms.append(relu(max(fourth) - b.s[i][p] + second_margin))
    return [first, second]


def triplet(b: Batch, i: int, margin: float = 0.2) -> list[Part]:
    return [Part([relu(b.s[i][n] - b.s[i][p] + margin) for p, n in b.triplets[i]])]


losses: dict[str, Callable[..., list[Part]]] = {
    "angular": angular,
    "margin": margin,
    "quadruplet": quadruplet,
    "rank_hard": rank_hard,
    "triplet": triplet,
    "triplet_softmax": triplet_softmax,
    "triplet_weighted": triplet_weighted,
}


def reduce(parts: list[Part], how: str) -> Tensor:
    """Average one sum of all anchors."""
    total = sum(part.total for part in parts)
    share = {
        "mean": len(parts),
        "mean_terms": sum(part.size for part in parts),
        "mean_active": sum(float(term > 0) for part in parts for term in part.terms),
    }[how]
    return total / max(share, 1)
