"""The losses and mining rules as loops over the papers' formulas, in float64: what the tests compare with."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass
class Row:
    """One anchor: similarities of its positives, of its negatives, and the triplets chosen among them."""

    positives: list[Tensor]
    negatives: list[Tensor]
    triplets: list[tuple[Tensor, Tensor]]
    anchor: Tensor | None = None


def similarity(x: Tensor, y: Tensor, measure: str) -> Tensor:
    if measure == "cosine":
        return (x @ y) / (x.norm() * y.norm())
    if measure == "dot":
        return x @ y
    square = ((x - y) ** 2).sum()
    if measure == "squared_euclidean":
        return -square
    return -square.sqrt() if square > 0 else 0 * square


def rows(x: Tensor, measure: str, labels: Tensor, mining: str | None, margin: float = 0.2) -> list[Row]:
    found = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        p = [similarity(x[i], x[j], measure) for j in others if labels[j] == labels[i]]
        n = [similarity(x[i], x[j], measure) for j in others if labels[j] != labels[i]]
        found.append(mine(p, n, mining, margin))
        found[-1].anchor = x[i]
    return found


def viewed(name: str, x: Tensor, measure: str) -> tuple[Tensor, str]:
    """What a loss compares when it is asked for ``measure``."""
    unit = normalize(x, dim=1) if measure == "cosine" else x
    if name in ("lifted_structure", "ranked_list"):
        return unit, "euclidean"
    if name == "lifted_structure_generalized" and measure == "cosine":
        return unit, "euclidean"
    if name == "tuplet_margin":
        return x, "cosine"
    if name == "snr_contrastive":
        return torch.stack([row - row.sum() / len(row) for row in unit]), "squared_euclidean"
    return x, measure


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


def contrastive_averaged(row: Row, near: float = 1.0, far: float = 0.5) -> Tensor:
    pull = average([torch.clamp(near - s, min=0) for s in row.positives])
    return pull + average([torch.clamp(s - far, min=0) for s in row.negatives])


def binomial_deviance(
    row: Row,
    alpha: float = 2.0,
    beta: float = 40.0,
    base: float = 0.5,
    positive_weight: float = 1.0,
    negative_weight: float = 1.0,
) -> Tensor:
    pull = average([torch.log1p(torch.exp(-alpha * (s - base))) for s in row.positives])
    push = average([torch.log1p(torch.exp(beta * (s - base))) for s in row.negatives])
    return positive_weight * pull + negative_weight * push


def lifted_structure_generalized(
    row: Row, margin: float = 1.0, alpha: float = 1.0, beta: float = 1.0, variant: str = "hinge"
) -> Tensor:
    if not row.positives or not row.negatives:
        return nothing()
    m = margin if variant == "hinge" else 0.0
    farthest = torch.log(total([torch.exp(-alpha * s) for s in row.positives])) / alpha
    nearest = torch.log(total([torch.exp(beta * (s + m)) for s in row.negatives])) / beta
    gap = farthest + nearest
    return torch.clamp(gap, min=0) if variant == "hinge" else 2 * gap


def nca(
    row: Row, temperature: float = 1 / 16, neighbours: int | None = None, inverted: bool = False
) -> Tensor:
    sign = -1 if inverted else 1
    p, n = [sign * s for s in row.positives], [sign * s for s in row.negatives]
    if not p:
        return nothing()
    if neighbours is not None and len(p) + len(n) > neighbours:
        limit = sorted(p + n, reverse=True)[neighbours]
        p, n = [s for s in p if s > limit] or [max(p)], [s for s in n if s > limit]
    ours = total([torch.exp(s / temperature) for s in p])
    return -torch.log(ours / (ours + total([torch.exp(s / temperature) for s in n])))


def npair(row: Row) -> Tensor:
    return average([torch.log1p(total([torch.exp(n - p) for n in row.negatives])) for p in row.positives])


def npair_ovo(row: Row) -> Tensor:
    terms = [torch.log1p(torch.exp(n - p)) for p, n in row.triplets]
    return total(terms) / max(1, len(row.positives))


def npair_mined(row: Row) -> Tensor:
    return nca(row, temperature=1.0)


def ntxent(row: Row, temperature: float = 0.1) -> Tensor:
    others = total([torch.exp(n / temperature) for n in row.negatives])
    each = [torch.exp(p / temperature) for p in row.positives]
    return total([-torch.log(e / (e + others)) for e in each])


def circle(row: Row, margin: float = 0.4, temperature: float = 1 / 80, frozen: bool = False) -> Tensor:
    hold = Tensor.detach if frozen else Tensor.clone
    pull = [hold(torch.clamp(1 + margin - s, min=0)) * (s - 1 + margin) for s in row.positives]
    push = [hold(torch.clamp(s + margin, min=0)) * (s - margin) for s in row.negatives]
    # As Σ Σ exp(a + b), so that the pieces do not overflow where their product does not.
    return torch.log1p(total([torch.exp((b - a) / temperature) for a in pull for b in push]))


def tuplet_margin(row: Row, margin: float = 0.1, temperature: float = 1 / 64) -> Tensor:
    turned = [torch.cos(torch.acos(s) - margin) for s in row.positives]
    return total(
        [torch.log1p(total([torch.exp((n - p) / temperature) for n in row.negatives])) for p in turned]
    )


def ranked_list(
    row: Row,
    boundary: float = 1.2,
    margin: float = 0.4,
    sharpness: float = 10.0,
    positive_sharpness: float = 0.0,
    balance: float = 0.5,
    frozen: bool = False,
) -> Tensor:
    hold = Tensor.detach if frozen else Tensor.clone
    far = [-s - (boundary - margin) for s in row.positives if -s > boundary - margin]
    near = [boundary + s for s in row.negatives if -s < boundary]
    weights = [
        [torch.exp(hold(t * d)) for d in side] for t, side in ((positive_sharpness, far), (sharpness, near))
    ]
    pull, push = (
        total([w / total(ws) * d for w, d in zip(ws, side, strict=True)])
        for ws, side in zip(weights, (far, near), strict=True)
    )
    return (1 - balance) * pull + balance * push


def snr_contrastive(row: Row, positive_margin: float = 0.0, negative_margin: float = 1.0) -> Tensor:
    signal = (row.anchor**2).sum()
    pull = [torch.clamp(-s / signal - positive_margin, min=0) for s in row.positives]
    return total(pull) + total([torch.clamp(negative_margin + s / signal, min=0) for s in row.negatives])


def siglip(row: Row, log_scale: float = 2.302585, bias: float = -10.0) -> Tensor:
    z = [[math.exp(log_scale) * s + bias for s in side] for side in (row.positives, row.negatives)]
    return total([torch.log1p(torch.exp(-a)) for a in z[0]]) + total(
        [torch.log1p(torch.exp(b)) for b in z[1]]
    )


def lifted_structure(x: Tensor, labels: Tensor, measure: str, margin: float = 1.0) -> Tensor:
    """All anchors at once: the negatives of both ends count."""
    n = range(len(x))
    near = [
        [torch.exp(margin + similarity(x[i], x[k], measure)) for k in n if labels[k] != labels[i]] for i in n
    ]
    values = []
    for i in n:
        positives = [j for j in n if j != i and labels[j] == labels[i] and near[i] + near[j]]
        violations = [
            torch.log(total(near[i] + near[j])) - similarity(x[i], x[j], measure) for j in positives
        ]
        values.append(total([torch.clamp(v, min=0) ** 2 / 2 for v in violations]))
    return torch.stack(values)


def clip(x: Tensor, labels: Tensor, measure: str, log_scale: float = 2.65926) -> Tensor:
    """All anchors at once: a batch against itself, where a column is the row of the candidate."""
    n = range(len(x))
    z = [[math.exp(log_scale) * similarity(x[i], x[j], measure) for j in n] for i in n]
    others = [[z[i][k] for k in n if labels[k] != labels[i]] for i in n]
    values = []
    for i in n:
        each = [
            torch.log1p(total([torch.exp(a - z[i][j]) for a in others[i]]))
            + torch.log1p(total([torch.exp(a - z[i][j]) for a in others[j]]))
            for j in n
            if j != i and labels[j] == labels[i]
        ]
        values.append(average(each) / 2)
    return torch.stack(values)


def nothing() -> Tensor:
    return torch.tensor(0.0, dtype=torch.float64)


def total(values: list[Tensor]) -> Tensor:
    return sum(values, nothing())


def average(values: list[Tensor]) -> Tensor:
    return total(values) / max(1, len(values))


per_anchor: dict[str, Callable[..., Tensor]] = {
    "binomial_deviance": binomial_deviance,
    "circle": circle,
    "contrastive": contrastive,
    "lifted_structure_generalized": lifted_structure_generalized,
    "multi_similarity": multi_similarity,
    "nca": nca,
    "npair": npair,
    "npair_mined": npair_mined,
    "npair_ovo": npair_ovo,
    "ntxent": ntxent,
    "ranked_list": ranked_list,
    "siglip": siglip,
    "snr_contrastive": snr_contrastive,
    "supcon": supcon,
    "triplet": triplet,
    "tuplet_margin": tuplet_margin,
}
