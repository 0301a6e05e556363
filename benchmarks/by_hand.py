"""Losses as a person writes them for a small batch: the whole matrix, masks, plain autograd.

Each takes embeddings [n, dim] and labels [n], those with proxies the proxies [class, dim] as well, the class
being the label, and gives the loss that ``nearfar.losses.create`` computes with the same settings.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

Formula = Callable[..., Tensor]
NONE = -torch.inf
softplus = partial(torch.nn.functional.softplus, threshold=40.0)  # 20, torch's own, shows in float64


def _matrix(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities, and the masks of positives and negatives."""
    x = normalize(x, dim=1)
    same = y[:, None] == y[None, :]
    return x @ x.T, same & ~torch.eye(len(x), dtype=torch.bool, device=x.device), ~same


def supcon(x: Tensor, y: Tensor, temperature: float = 0.1) -> Tensor:
    s, p, n = _matrix(x, y)
    z = s / temperature
    total = torch.logsumexp(z.masked_fill(~(p | n), NONE), 1, keepdim=True)
    return -((z - total).masked_fill(~p, 0.0).sum(1) / p.sum(1).clamp(min=1)).mean()


def ntxent(x: Tensor, y: Tensor, temperature: float = 0.1) -> Tensor:
    s, p, n = _matrix(x, y)
    z = s / temperature
    others = torch.logsumexp(z.masked_fill(~n, NONE), 1, keepdim=True)
    return softplus(others - z).masked_fill(~p, 0.0).sum() / p.sum().clamp(min=1)


def contrastive(x: Tensor, y: Tensor, near: float = 1.0, far: float = 0.5) -> Tensor:
    s, p, n = _matrix(x, y)
    return (relu(near - s).masked_fill(~p, 0.0).sum(1) + relu(s - far).masked_fill(~n, 0.0).sum(1)).mean()


def multi_similarity_mined(
    x: Tensor, y: Tensor, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, epsilon: float = 0.1
) -> Tensor:
    s, p, n = _matrix(x, y)
    plain = s.detach()
    farthest = plain.masked_fill(~p, torch.inf).amin(1, keepdim=True)
    nearest = plain.masked_fill(~n, NONE).amax(1, keepdim=True)
    p, n = p & (plain - epsilon < nearest), n & (plain + epsilon > farthest)
    pull = torch.logsumexp((-alpha * (s - base)).masked_fill(~p, -1e30), 1)
    push = torch.logsumexp((beta * (s - base)).masked_fill(~n, -1e30), 1)
    return (softplus(pull) / alpha + softplus(push) / beta).mean()


def triplet_all(x: Tensor, y: Tensor, margin: float = 0.2) -> Tensor:
    s, p, n = _matrix(x, y)
    i, j = torch.where(p)
    term = relu(s[i] - s[i, j][:, None] + margin) * n[i]
    return term.sum() / (term > 0).sum().clamp(min=1)


def triplet_hard(x: Tensor, y: Tensor, margin: float = 0.2) -> Tensor:
    s, p, n = _matrix(x, y)
    farthest = s.masked_fill(~p, torch.inf).amin(1)
    nearest = s.masked_fill(~n, NONE).amax(1)
    there = p.any(1) & n.any(1)
    term = relu(torch.where(there, nearest, 0.0) - torch.where(there, farthest, 0.0) + margin) * there
    return term.sum() / there.sum().clamp(min=1)


def triplet_semi_hard(x: Tensor, y: Tensor, margin: float = 0.2) -> Tensor:
    s, p, n = _matrix(x, y)
    i, j = torch.where(p)
    positive = s[i, j][:, None]
    slack = (2 + x.shape[1] ** 0.5 / 2) * torch.finfo(x.dtype).eps
    nearest = s[i].masked_fill(~n[i] | (s[i] >= positive - slack), NONE).amax(1)
    there = nearest > positive[:, 0] - margin
    term = relu(torch.where(there, nearest, 0.0) - positive[:, 0] + margin) * there
    return term.sum() / there.sum().clamp(min=1)


def circle(x: Tensor, y: Tensor, margin: float = 0.4, temperature: float = 1 / 80) -> Tensor:
    s, p, n = _matrix(x, y)
    pull = torch.logsumexp((-relu(1 + margin - s) * (s - 1 + margin) / temperature).masked_fill(~p, -1e30), 1)
    push = torch.logsumexp((relu(s + margin) * (s - margin) / temperature).masked_fill(~n, -1e30), 1)
    there = p.any(1)
    return (softplus(pull + push) * there).mean()


def margin_drawn(x: Tensor, y: Tensor, margin: float = 0.2, beta: float = 1.2) -> Tensor:
    """The draws are torch's own, so that the value is another one every time."""
    s, p, n = _matrix(x, y)
    distance = (2 - 2 * s).clamp(min=1e-12).sqrt()
    with torch.no_grad():
        d, dim = distance.clamp(min=0.5), x.shape[1]
        log_weight = (2 - dim) * d.log() - (dim - 3) / 2 * (1 - d.square() / 4).clamp(min=1e-8).log()
        log_weight = log_weight.masked_fill(~n | (distance >= 1.4), -1e30)
        weight = torch.softmax(log_weight, 1) * n + 1e-12 * n
        count = p.sum(1)
        drawn = torch.multinomial(weight, int(count.max()), replacement=True)
    i, j = torch.where(p)
    place = torch.arange(len(i), device=x.device) - (count.cumsum(0) - count)[i]
    pull = relu(distance[i, j] - beta + margin)
    push = relu(beta - distance[i, drawn[i, place]] + margin)
    return (pull.sum() + push.sum()) / ((pull > 0).sum() + (push > 0).sum()).clamp(min=1)


def proxy_anchor(x: Tensor, y: Tensor, proxies: Tensor, margin: float = 0.1, alpha: float = 32.0) -> Tensor:
    s = normalize(x, dim=1) @ normalize(proxies, dim=1).T
    own = y[:, None] == torch.arange(len(proxies), device=y.device)
    pull = torch.logsumexp((-alpha * (s - margin)).masked_fill(~own, -1e30), 0)
    push = torch.logsumexp((alpha * (s + margin)).masked_fill(own, -1e30), 0)
    here = own.any(0)
    return (softplus(pull) * here).sum() / here.sum().clamp(min=1) + softplus(push).mean()


def arcface(
    x: Tensor, y: Tensor, proxies: Tensor, margin: float = 0.5, temperature: float = 1 / 64
) -> Tensor:
    s = normalize(x, dim=1) @ normalize(proxies, dim=1).T
    own = s.gather(1, y[:, None])
    sine = (1 - own.square()).clamp(min=1e-12).sqrt()
    cos, sin = math.cos(margin), math.sin(margin)
    wide = torch.where(own >= -cos, own * cos - sine * sin, own - margin * sin)
    return torch.nn.functional.cross_entropy(s.scatter(1, y[:, None], wide) / temperature, y)


def smooth_ap(x: Tensor, y: Tensor, temperature: float = 0.01) -> Tensor:
    s, p, n = _matrix(x, y)
    i, j = torch.where(p)
    ahead = torch.sigmoid((s[i] - s[i, j][:, None]) / temperature)
    itself = torch.arange(len(s), device=x.device) == j[:, None]
    rank = 1 + (ahead * (p[i] & ~itself)).sum(1)
    share = rank / (rank + (ahead * n[i]).sum(1))
    count = p.sum(1)
    precision = torch.zeros_like(s[0]).index_add(0, i, share) / count.clamp(min=1)
    return ((1 - precision) * (count > 0)).sum() / (count > 0).sum().clamp(min=1)
