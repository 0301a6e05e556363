"""The ranking losses as loops over the papers' formulas, in float64: what the tests compare with."""

import torch
from torch import Tensor

from loss_oracle import average, nothing, similarity, total


def sides(x: Tensor, labels: Tensor, measure: str, i: int) -> tuple[list[Tensor], list[Tensor]]:
    """Similarities of an anchor's positives and of its negatives."""
    others = [j for j in range(len(x)) if j != i]
    positives = [similarity(x[i], x[j], measure) for j in others if labels[j] == labels[i]]
    return positives, [similarity(x[i], x[j], measure) for j in others if labels[j] != labels[i]]


def step(t: Tensor, temperature: float) -> Tensor:
    return 1 / (1 + torch.exp(-t / temperature))


def smooth_ap(
    x: Tensor, labels: Tensor, measure: str, temperature: float = 0.01, with_self: bool = False
) -> Tensor:
    values = []
    for i in range(len(x)):
        p, n = sides(x, labels, measure, i)
        if not p:
            values.append(nothing())
            continue
        if with_self:
            p = [*p, similarity(x[i], x[i], measure)]
        precision = []
        for k, s in enumerate(p):
            before = 1 + total([step(q - s, temperature) for m, q in enumerate(p) if m != k])
            precision.append(before / (before + total([step(q - s, temperature) for q in n])))
        values.append(1 - average(precision))
    return torch.stack(values)


def recall_at_k(
    x: Tensor,
    labels: Tensor,
    measure: str,
    ks: tuple[int, ...] = (1, 2, 4, 8, 16),
    temperature: float = 0.01,
    rank_temperature: float = 1.0,
    out_of: str = "positives",
    with_self: bool = False,
) -> Tensor:
    values = []
    for i in range(len(x)):
        p, n = sides(x, labels, measure, i)
        ranks = []
        for k, s in enumerate(p):
            others = n + [q for m, q in enumerate(p) if m != k]
            if with_self:
                others.append(similarity(x[i], x[i], measure))
            ranks.append(1 + total([step(q - s, temperature) for q in others]))
        lost = []
        for k in ks if p else []:
            found = total([step(k - r, rank_temperature) for r in ranks])
            if out_of == "positives":
                lost.append(1 - found / len(p))
            else:
                lost.append(1 - torch.clamp(found, max=k) / min(k, len(p)))
        values.append(average(lost))
    return torch.stack(values)


def roadmap(
    x: Tensor,
    labels: Tensor,
    measure: str,
    temperature: float = 0.01,
    slope: float = 100.0,
    bend: float = 0.05,
    step: float = 0.5,
    offset: float | None = None,
    calibration: float = 0.5,
    positive_margin: float = 0.9,
    negative_margin: float = 0.6,
) -> Tensor:
    def sigmoid(t: Tensor | float) -> Tensor:
        return 1 / (1 + torch.exp(-torch.as_tensor(t, dtype=torch.float64) / temperature))

    def above(t: Tensor) -> Tensor:
        if t <= 0:
            return sigmoid(t)
        if t <= bend:
            return sigmoid(t) + step
        return slope * (t - bend) + (sigmoid(bend) + step if offset is None else offset)

    values = []
    for i in range(len(x)):
        p, n = sides(x, labels, measure, i)
        if not p:
            values.append(nothing())
            continue
        precision = []
        for k, s in enumerate(p):
            before = 1 + sum(1 for m, q in enumerate(p) if m != k and q >= s)
            precision.append(before / (before + total([above(q - s) for q in n])))
        pull = average([torch.clamp(positive_margin - s, min=0) for s in p])
        push = average([torch.clamp(s - negative_margin, min=0) for s in n])
        values.append((1 - calibration) * (1 - average(precision)) + calibration * (pull + push))
    return torch.stack(values)


def fast_ap(x: Tensor, labels: Tensor, measure: str = "cosine", bins: int = 10) -> Tensor:
    width, values = 4 / bins, []
    for i in range(len(x)):
        p, n = sides(x, labels, "cosine", i)
        found, ahead, value = nothing(), nothing(), nothing()
        for k in range(bins + 1):
            here = total([torch.clamp(1 - (2 - 2 * s - k * width).abs() / width, min=0) for s in p])
            found = found + here
            ahead = ahead + total([torch.clamp(1 - (2 - 2 * s - k * width).abs() / width, min=0) for s in n])
            if here > 0:
                value = value + here * found / (found + ahead)
        values.append(1 - value / len(p) if p else nothing())
    return torch.stack(values)


def histogram(x: Tensor, labels: Tensor, measure: str = "cosine", bins: int = 100) -> Tensor:
    """One number, as all pairs make it."""
    every = [sides(x, labels, "cosine", i) for i in range(len(x))]
    p, n = [s for ps, _ in every for s in ps], [s for _, ns in every for s in ns]
    width, below, value = 2 / bins, nothing(), nothing()
    for k in range(bins + 1):
        node = -1 + k * width
        below = below + average([torch.clamp(1 - (s - node).abs() / width, min=0) for s in p])
        value = value + below * average([torch.clamp(1 - (s - node).abs() / width, min=0) for s in n])
    return value
