"""What is measured: four losses, ours and the peer's, on the same embeddings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.losses import create

Function = Callable[[Tensor, Tensor], Tensor]
"""(embeddings [n, dim], labels [n]) -> loss"""


@dataclass(frozen=True)
class Problem:
    """One loss in two libraries.

    Attributes:
        title: what it is, in words.
        settings: what ``nearfar.losses.create`` is given.
        peer: makes the same loss of pytorch-metric-learning.
        similarities, gradients: how many products of all rows with all rows (2 n² dim operations each) it
            cannot do without: those for similarities, of which symmetry saves half, and those for gradients.
            Where the gradient's weights need a statistic of all similarities these are computed twice.
    """

    title: str
    settings: Mapping[str, Any]
    peer: Callable[[], Function]
    similarities: float
    gradients: float


def _peer_supcon() -> Function:
    from pytorch_metric_learning import losses

    return losses.SupConLoss(temperature=0.1)


def _peer_multi_similarity() -> Function:
    from pytorch_metric_learning import losses, miners

    miner = miners.MultiSimilarityMiner(epsilon=0.1)
    loss = losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)
    return lambda x, labels: loss(x, labels, miner(x, labels))


def _peer_hard() -> Function:
    from pytorch_metric_learning import distances, losses, miners

    cosine = distances.CosineSimilarity()
    miner = miners.BatchHardMiner(distance=cosine)
    loss = losses.TripletMarginLoss(margin=0.2, distance=cosine)
    return lambda x, labels: loss(x, labels, miner(x, labels))


def _peer_all() -> Function:
    from pytorch_metric_learning import distances, losses

    return losses.TripletMarginLoss(margin=0.2, distance=distances.CosineSimilarity())


PROBLEMS = {
    "supcon": Problem(
        "supervised contrastive, temperature 0.1",
        {"name": "supcon", "temperature": 0.1},
        _peer_supcon,
        similarities=1.0,
        gradients=1.0,
    ),
    "multi_similarity": Problem(
        "multi-similarity with its mining",
        {
            "name": "multi_similarity",
            "alpha": 2.0,
            "beta": 50.0,
            "base": 0.5,
            "mining": {"name": "multi_similarity", "epsilon": 0.1},
        },
        _peer_multi_similarity,
        similarities=1.0,
        gradients=1.0,
    ),
    "triplet_hard": Problem(
        "triplet, the hardest of each anchor",
        {"name": "triplet", "margin": 0.2, "mining": "hard", "reduction": "mean_active"},
        _peer_hard,
        similarities=0.5,
        gradients=0.0,
    ),
    "triplet_all": Problem(
        "triplet, all triplets",
        {"name": "triplet", "margin": 0.2, "reduction": "mean_active"},
        _peer_all,
        similarities=0.5,
        gradients=1.0,
    ),
}


def build(loss: str, who: str, backend: str) -> Function:
    """Return the loss of one side: "nearfar", or any other name for the peer."""
    problem = PROBLEMS[loss]
    return create(**problem.settings, backend=backend) if who == "nearfar" else problem.peer()


def noise_for(dim: int) -> float:
    """Return a noise at which mined losses keep something to learn: nearest negatives about as near as
    positives, whose similarity is 1 / (1 + noise²)."""
    return 1.0 if dim < 256 else 1.6


def make(n: int, dim: int, per_class: int = 4) -> tuple[Float[Tensor, "n dim"], Int[Tensor, " n"]]:
    """Return unit-length rows around a random centre for each class, in random order."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n // per_class).repeat_interleave(per_class)
    labels = labels[torch.randperm(n, generator=generator)]
    centres = torch.randn(n // per_class, dim, generator=generator)
    x = centres[labels].add_(torch.randn(n, dim, generator=generator), alpha=noise_for(dim))
    return x.div_(x.norm(dim=1, keepdim=True)), labels


def step(function: Function, embeddings: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Go forward and backward once; return the value and the gradient [n, dim]."""
    x = embeddings.detach().requires_grad_()
    value = function(x, labels)
    value.backward()
    assert x.grad is not None
    return value.item(), x.grad
