"""The losses with proxies as loops over the papers' formulas, in float64: what the tests compare with."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from loss_oracle import total


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def cross_entropy(own: Tensor, others: list[Tensor]) -> Tensor:
    return -torch.log(torch.exp(own) / (torch.exp(own) + total([torch.exp(z) for z in others])))


def classify(x: Tensor, w: Tensor, labels: Tensor, own: Callable, other: Callable, **rest) -> Tensor:
    values = []
    for i in range(len(x)):
        y = int(labels[i])
        z = [other(x[i], w[c], **rest) for c in range(len(w)) if c != y]
        values.append(cross_entropy(own(x[i], w[y], **rest), z))
    return torch.stack(values).mean()


def normalized_softmax(x, w, labels, temperature=0.05):
    def logit(a, b):
        return cosine(a, b) / temperature

    return classify(x, w, labels, logit, logit)


def square(a: Tensor, b: Tensor) -> Tensor:
    return ((a / a.norm() - b / b.norm()) ** 2).sum()


def proxy_nca(x, w, labels, temperature=1.0):
    values = []
    for i in range(len(x)):
        z = [torch.exp(-square(x[i], w[c]) / temperature) for c in range(len(w))]
        own = z.pop(int(labels[i]))
        values.append(-torch.log(own / total(z)))
    return torch.stack(values).mean()


def proxy_nca_pp(x, w, labels, temperature=1 / 9):
    def logit(a, b):
        return -square(a, b) / temperature

    return classify(x, w, labels, logit, logit)


def proxy_anchor(x, w, labels, margin=0.1, alpha=32.0):
    pull, push, present = [], [], 0
    for c in range(len(w)):
        s = [cosine(x[i], w[c]) for i in range(len(x))]
        near = [torch.exp(-alpha * (s[i] - margin)) for i in range(len(x)) if labels[i] == c]
        far = [torch.exp(alpha * (s[i] + margin)) for i in range(len(x)) if labels[i] != c]
        present += bool(near)
        pull.append(torch.log(1 + total(near)))
        push.append(torch.log(1 + total(far)))
    return total(pull) / present + total(push) / len(w)


def cosface(x, w, labels, margin=0.35, temperature=1 / 64):
    return classify(
        x,
        w,
        labels,
        lambda a, b: (cosine(a, b) - margin) / temperature,
        lambda a, b: cosine(a, b) / temperature,
    )


def wider(c: Tensor, margin: float, beyond: str = "line") -> Tensor:
    theta = torch.acos(c)
    if beyond == "easy":
        return torch.cos(theta + margin) if c > 0 else c
    if theta + margin <= math.pi or beyond == "turn":
        return torch.cos(theta + margin)
    return c - margin * math.sin(margin)


def arcface(x, w, labels, margin=0.5, temperature=1 / 64, beyond="line"):
    return classify(
        x,
        w,
        labels,
        lambda a, b: wider(cosine(a, b), margin, beyond) / temperature,
        lambda a, b: cosine(a, b) / temperature,
    )


def sub_center_arcface(x, w, labels, margin=0.5, temperature=1 / 64, centres=3, beyond="line"):
    def nearest(a, ws):
        return max((cosine(a, b) for b in ws), key=Tensor.item)

    return classify(
        x,
        w.view(-1, centres, w.shape[1]),
        labels,
        lambda a, ws: wider(nearest(a, ws), margin, beyond) / temperature,
        lambda a, ws: nearest(a, ws) / temperature,
    )


def curricular_face(x, w, labels, margin=0.5, temperature=1 / 64, t=0.0):
    values = []
    own = [cosine(x[i], w[int(labels[i])]) for i in range(len(x))]
    t = 0.99 * t + 0.01 * (sum(own) / len(own)).item()
    for i in range(len(x)):
        boundary = torch.cos(torch.acos(own[i]) + margin)
        z = []
        for c in range(len(w)):
            if c != labels[i]:
                s = cosine(x[i], w[c])
                z.append((s * (t + s) if s > boundary else s) / temperature)
        values.append(cross_entropy(wider(own[i], margin) / temperature, z))
    return torch.stack(values).mean()


def adaface(x, w, labels, margin=0.4, temperature=1 / 64, concentration=0.333, mean=20.0, spread=100.0):
    lengths = x.detach().norm(dim=1).clamp(1e-3, 100)
    mean, spread = 0.99 * mean + 0.01 * lengths.mean(), 0.99 * spread + 0.01 * lengths.std()
    values = []
    for i in range(len(x)):
        y = int(labels[i])
        q = float(((lengths[i] - mean) / (spread + 1e-3) * concentration).clamp(-1, 1))
        theta = torch.clamp(torch.acos(cosine(x[i], w[y])) - margin * q, 0, math.pi)
        own = torch.cos(theta) - margin * (1 + q)
        others = [cosine(x[i], w[c]) / temperature for c in range(len(w)) if c != y]
        values.append(cross_entropy(own / temperature, others))
    return torch.stack(values).mean()


def psi(c: Tensor, margin: int) -> Tensor:
    theta = torch.acos(c)
    k = math.floor(margin * theta.item() / math.pi)
    return (-1) ** k * torch.cos(margin * theta) - 2 * k


def multiplied(x, w, labels, length, margin, temperature, blend):
    return classify(
        x,
        w,
        labels,
        lambda a, b: (
            length(a, b) * (blend * cosine(a, b) + psi(cosine(a, b), margin)) / (1 + blend) / temperature
        ),
        lambda a, b: length(a, b) * cosine(a, b) / temperature,
    )


def sphereface(x, w, labels, margin=4, temperature=1.0, blend=0.0):
    return multiplied(x, w, labels, lambda a, b: a.norm(), margin, temperature, blend)


def large_margin_softmax(x, w, labels, margin=4, temperature=1.0, blend=0.0):
    return multiplied(x, w, labels, lambda a, b: a.norm() * b.norm(), margin, temperature, blend)


def center(x, w, labels):
    return sum(square(x[i], w[int(labels[i])]) / 2 for i in range(len(x))) / len(x)


def soft_triple(
    x, w, labels, centres=10, temperature=1 / 20, margin=0.01, centre_temperature=0.1, merging=0.2
):
    groups = w.view(-1, centres, w.shape[1])

    def similarity(a, ws):
        s = [cosine(a, b) for b in ws]
        e = [torch.exp(v / centre_temperature) for v in s]
        return total([p * v for p, v in zip(e, s, strict=True)]) / total(e)

    value = classify(
        x,
        groups,
        labels,
        lambda a, ws: (similarity(a, ws) - margin) / temperature,
        lambda a, ws: similarity(a, ws) / temperature,
    )
    apart = [
        (group[k] / group[k].norm() - group[j] / group[j].norm()).norm()
        for group in groups
        for k in range(centres)
        for j in range(k)
    ]
    return value + merging * total(apart) / (len(groups) * centres * max(1, centres - 1))


definitions: dict[str, Callable[..., Tensor]] = {
    "adaface": adaface,
    "arcface": arcface,
    "center": center,
    "cosface": cosface,
    "curricular_face": curricular_face,
    "large_margin_softmax": large_margin_softmax,
    "normalized_softmax": normalized_softmax,
    "proxy_anchor": proxy_anchor,
    "proxy_nca": proxy_nca,
    "proxy_nca_pp": proxy_nca_pp,
    "soft_triple": soft_triple,
    "sphereface": sphereface,
    "sub_center_arcface": sub_center_arcface,
}

# What settings switch on, beside the defaults; temperatures at which gradients are not all rounding.
VARIANTS: dict[str, list[dict]] = {
    "adaface": [{"temperature": 0.2, "margin": 0.9, "concentration": 40.0}],
    "arcface": [{"margin": 1.2, "temperature": 0.3, "beyond": b} for b in ("line", "turn", "easy")],
    "cosface": [{"margin": 0.1, "temperature": 0.5}],
    "curricular_face": [{"margin": 0.9, "temperature": 0.3}],
    "large_margin_softmax": [{"margin": m} for m in (1, 2, 3)] + [{"blend": 5.0, "temperature": 2.0}],
    "proxy_anchor": [{"margin": 0.3, "alpha": 2.0}],
    "proxy_nca": [{"temperature": 1 / 9}],
    "proxy_nca_pp": [{"temperature": 1.0}],
    "soft_triple": [{"centres": 2, "temperature": 0.5, "merging": 0.0}, {"centres": 1}],
    "sphereface": [{"margin": m} for m in (1, 2, 3)] + [{"blend": 5.0, "temperature": 0.1}],
    "sub_center_arcface": [{"centres": 2, "temperature": 0.3}, {"centres": 1, "beyond": "turn"}],
}
CASES = [(name, settings) for name in definitions for settings in ({}, *VARIANTS.get(name, []))]
