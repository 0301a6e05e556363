"""Losses and batches that several ranks share, what one process makes of them, and what a rank does."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

import nearfar
from nearfar.losses import Loss
from nearfar.losses.parts.registry import registry as losses
from nearfar.mining.registry import registry as rules
from nearfar.similarity import Relevance
from problems import PAIR_LOSSES, TRIPLET_LOSSES, TWO_SIDED_LOSSES, WHOLE_BATCH_LOSSES
from proxy_problems import EVERY as PROXY_LOSSES

N, WIDTH, DIM, CLASSES = 24, 7, 5, 6
# Where the rows of all are cut: evenly, unevenly, with a rank that has none, with one row on a rank.
CUTS: dict[int, list[list[int]]] = {
    1: [[24]],
    2: [[12, 12], [17, 7], [24, 0], [1, 23]],
    4: [[6, 6, 6, 6], [11, 1, 9, 3], [10, 0, 14, 0], [0, 24, 0, 0]],
}
EVERY = [*PAIR_LOSSES, *TRIPLET_LOSSES, *TWO_SIDED_LOSSES, *WHOLE_BATCH_LOSSES]
NAMING = ["easy", "easy_positive", "hard", "random", "semi_hard", "top_k", "distance_weighted"]
NARROWING = ["interval", "multi_similarity", "relative"]
TOLD: dict[str, list[dict[str, Any]]] = {
    "interval": [{"above": -0.5, "below": 0.6}],
    "relative": [
        {"positive_method": "relative_hard", "negative_method": "relative_hard"},
        {"negative_method": "hard", "positive_method": "easy"},
        {
            "positive_method": "relative_easy",
            "negative_method": "relative_hard",
            "positive_over": "batch",
            "negative_over": "batch",
        },
    ],
    "random": [{"keep_negatives": 2, "keep_positives": 2}],
    "semi_hard": [{"margin": 0.4}, {"margin": 0.4, "otherwise": "farthest"}],
    "top_k": [{"keep_negatives": 3, "keep_positives": 2}],
}


@dataclass
class Case:
    """One loss on one batch.

    Attributes:
        create: what the loss is made of.
        cut: rows of each rank.
        steps: batches, one after the other, against one memory where there is one.
    """

    create: dict[str, Any]
    cut: list[int]
    dtype: torch.dtype = torch.float64
    labels: str = "classes"
    ids: bool = False
    weights: bool = False
    candidates: bool = False
    memory: dict[str, Any] | None = None
    steps: int = 1
    engine: str = "ddp"
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        extra = [name for name in ("ids", "weights", "candidates") if getattr(self, name)]
        more = [
            self.labels,
            self.engine,
            str(self.dtype),
            *extra,
            self.memory and f"memory {self.memory}",
            self.settings,
        ]
        return " ".join(str(x) for x in (self.create, self.cut, *more) if x)


class Rounded(nn.Linear):
    """A layer that gives a row the same bits in whatever company: a float32 product of one row is another."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.double(), self.weight.double()).to(x.dtype)


class Model(nn.Module):
    """A network with the loss inside, so that one wrapper sees to the weights of both."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = Rounded(WIDTH, DIM, bias=False)
        self.other = Rounded(WIDTH, DIM, bias=False) if case.candidates else None
        self.loss: Loss = nearfar.losses.create(**case.create)
        self.memory = None if case.memory is None else nearfar.CrossBatchMemory(**case.memory)
        self.to(case.dtype)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        call = {key: batch[key] for key in ("weights", "ids", "candidate_ids") if key in batch}
        if self.memory is not None:
            call["memory"] = self.memory
        x = self.net(batch["x"])
        if self.other is None:
            return self.loss(x, batch["labels"], **call)
        return self.loss(x, batch["labels"], self.other(batch["y"]), batch.get("candidate_labels"), **call)


def batch(case: Case, step: int) -> dict[str, Any]:
    """What one process is given."""
    generator = torch.Generator().manual_seed(step)
    found: dict[str, Any] = {"x": torch.randn(N, WIDTH, generator=generator, dtype=torch.float64)}
    found["y"] = torch.randn(N, WIDTH, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES - 1, (N,), generator=generator)
    labels[0] = CLASSES - 1  # an anchor without positives
    found["labels"], found["candidate_labels"] = labels, labels.roll(3)
    if case.labels == "tags":
        found["labels"] = (torch.rand(N, 4, generator=generator) < 0.3).long()
        found["candidate_labels"] = found["labels"].roll(3, 0)
    if case.labels == "alone":
        found["labels"] = torch.arange(N)
    if case.ids:
        found["ids"] = torch.randperm(N, generator=generator) % (N - 4) + 100
        # Two views of one image are of one class.
        for i in range(N):
            found["labels"][i] = found["labels"][int((found["ids"] == found["ids"][i]).nonzero()[0])]
        found["candidate_ids"] = found["ids"].roll(2)
    if case.weights:
        found["weights"] = torch.rand(N, generator=generator, dtype=torch.float64)
    found["x"], found["y"] = found["x"].to(case.dtype), found["y"].to(case.dtype)
    if not case.candidates:
        del found["y"], found["candidate_labels"]
        found.pop("candidate_ids", None)
    if case.labels == "listed":
        del found["labels"]
        found.pop("candidate_labels", None)
    return found


def listed(case: Case) -> list[Tensor]:
    """Positive pairs of each rank, within its own rows."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(max(1, n), (n, 2), generator=generator) for n in case.cut]


def part(case: Case, whole: dict[str, Any], rank: int) -> dict[str, Any]:
    """What one rank is given."""
    start = sum(case.cut[:rank])
    found = {key: value[start : start + case.cut[rank]] for key, value in whole.items()}
    if case.labels == "listed":
        found["labels"] = Relevance(listed(case)[rank])
    return found


def everything(case: Case, whole: dict[str, Any]) -> dict[str, Any]:
    """What one process is given in place of all ranks."""
    if case.labels != "listed":
        return whole
    starts = [sum(case.cut[:k]) for k in range(len(case.cut))]
    pairs = torch.cat([pairs + start for pairs, start in zip(listed(case), starts, strict=True)])
    return {**whole, "labels": Relevance(pairs)}


def solve(model: nn.Module, steps: list[dict[str, Any]], rank: int = 0) -> dict[str, Tensor]:
    """Values of all steps, and the gradients of the last. Ranks are seeded apart: rank 0 draws for all."""
    values = []
    for step, given in enumerate(steps):
        torch.manual_seed(100 + step + 1000 * rank)
        for p in model.parameters():
            p.grad = None
        value = model(given)
        value.backward()
        values.append(value.detach())
    return {"value": torch.stack(values), **gradients(model)}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients by name, whole."""
    found = {}
    for name, p in model.named_parameters():
        assert p.grad is not None, f"{name} has no gradient"
        whole = p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad
        found[name.replace("module.", "")] = whole.detach().clone()
    return found


def mined(names: list[str]) -> Iterator[dict[str, Any]]:
    """Every rule with its settings."""
    for name in names:
        for told in TOLD.get(name, [{}]):
            yield {"name": name, **told}


def creations(every: int = 1) -> Iterator[dict[str, Any]]:
    """Every loss with no rule and with each; or with each ``every``-th of them, other ones than the loss before."""
    assert {*NAMING, *NARROWING} == set(rules.names()) - {"all"}
    told = [{}, *({"mining": mining} for mining in mined([*NARROWING, *NAMING]))]
    for turn, name in enumerate(EVERY):
        for mining in told[turn % every :: every]:
            yield {"name": name, **mining}
    for name in ("l2_norm", "zero_mean", "uniformity"):
        yield {"name": name}
    for name in PROXY_LOSSES:
        yield {"name": name, **LEARNED}
        if losses[name].proxies.sampled:  # pyrefly: ignore[missing-attribute]
            yield {"name": name, **LEARNED, "sample": 0.9}


LEARNED = {"classes": CLASSES, "dim": DIM}
MEMORY = {"size": 40}
BEFORE = {"size": 40, "enqueue": "before"}


def further() -> Iterator[dict[str, Any]]:
    """What else a loss may be told, as settings of a ``Case``."""
    supcon, triplet = {"name": "supcon"}, {"name": "triplet", "mining": "semi_hard"}
    for reduction in ("mean", "mean_valid", "mean_terms", "mean_active", "sum"):
        yield {"create": {"name": "contrastive", "reduction": reduction}, "weights": True}
    yield {"create": {**supcon, "reduction": "tilted", "tilt": 2.0}, "weights": True}
    yield {"create": {**supcon, "reduction": "tilted", "tilt": -0.5}}
    yield {"create": {"name": "contrastive", "balance": "batch", "reduction": "tilted"}}
    for similarity in ("dot", "euclidean", "squared_euclidean"):
        yield {"create": {"name": "lifted_structure_generalized", "similarity": similarity}}
        yield {"create": {"name": "siglip", "similarity": similarity}}
        yield {"create": {**triplet, "similarity": similarity}, "ids": True}
    for backend in ("dense", "tiled", "reference"):
        yield {"create": {"name": "multi_similarity", "mining": "multi_similarity", "backend": backend}}
        yield {"create": {"name": "margin", "mining": "top_k", "backend": backend}, "labels": "tags"}
        yield {"create": {"name": "proxy_nca", **LEARNED, "backend": backend}}
    for kind in ("tags", "listed", "alone"):
        yield {"create": supcon, "labels": kind}
        yield {"create": {"name": "lifted_structure"}, "labels": kind, "ids": True}
        yield {"create": {"name": "margin"}, "labels": kind, "candidates": kind != "alone"}
    for name in ("clip", "siglip", "ntxent", "npair", "rank_hard", "quadruplet", "circle"):
        yield {"create": {"name": name}, "candidates": True}
        yield {"create": {"name": name}, "candidates": True, "ids": True, "weights": True}
    yield {"create": {"name": "margin", "classes": CLASSES, "per": "triplet", "nu": 0.1}}
    yield {"create": {"name": "margin", "class_weights": {0: 2.0, 1: 0.5}}, "ids": True, "weights": True}
    yield {"create": {"name": "proxy_anchor", **LEARNED, "class_weights": {0: 2.0, 1: 0.5}}}
    yield {"create": {"name": "center", "gradient": "paper", **LEARNED, "similarity": "squared_euclidean"}}
    yield {"create": {"name": "adaface", **LEARNED}, "steps": 3}
    yield {"create": {"name": "npair", "similarity": "dot", "l2": 0.1}}
    memories = [MEMORY, {**MEMORY, "combine": "sum", "weight": 0.5}, {**MEMORY, "combine": "memory"}]
    memories += [{**BEFORE, "combine": "sum"}, {**BEFORE, "combine": "memory"}, {**MEMORY, "start_after": 1}]
    memories += [{"size": 500}, {**BEFORE, "combine": "memory", "xbm_compat": True}]
    for told in memories:
        yield {"create": {"name": "contrastive"}, "memory": told, "steps": 3, "ids": True}
        yield {"create": {"name": "triplet", "mining": "hard"}, "memory": told, "steps": 3}
    half = {**MEMORY, "dtype": torch.float16}
    yield {"create": supcon, "memory": half, "steps": 3, "dtype": torch.float32}
    for mining in mined([*NARROWING, *NAMING]):
        yield {"create": {"name": "ntxent", "mining": mining}, "memory": MEMORY, "steps": 3}
    yield {"create": supcon, "settings": {"gradients": "sum"}}
    yield {"create": {"name": "histogram"}, "settings": {"gradients": "sum"}}
    yield {"create": {"name": "proxy_nca", **LEARNED}, "settings": {"gradients": "sum"}}
    for create in (
        {"name": "margin", "mining": "distance_weighted"},
        {"name": "proxy_nca", **LEARNED},
        {"name": "clip"},
        {"name": "siglip"},
        {"name": "margin", "classes": CLASSES},
    ):
        yield {"create": create, "engine": "fsdp"}
        yield {"create": create, "dtype": torch.float32}


def plainly() -> Iterator[dict[str, Any]]:
    """Every loss against a memory, and in float32."""
    for name in EVERY:
        yield {"create": {"name": name}, "memory": MEMORY, "steps": 2}
        yield {"create": {"name": name}, "dtype": torch.float32}


def cases(world_size: int, exchanges: tuple[str, ...]) -> list[Case]:
    """All problems."""
    told = [*({"create": create} for create in creations()), *further(), *plainly()]
    return dealt(told, world_size, exchanges)


def some_cases(world_size: int, exchanges: tuple[str, ...]) -> list[Case]:
    """Every loss, with every rule in turns; of what else there is most on two ranks, a sixth on four."""
    told = [{"create": create} for create in creations(every={2: 12, 4: 14}[world_size])]
    told += [one for place, one in enumerate(further()) if (place % 6 == 2) == (world_size == 4)]
    if world_size == 2:
        told += [one for place, one in enumerate(plainly()) if place % 4 in (0, 3)]
    return dealt(told, world_size, exchanges)


def dealt(told: list[dict[str, Any]], world_size: int, exchanges: tuple[str, ...]) -> list[Case]:
    """The problems on so many ranks, with the cuts and the exchanges in turns."""
    cuts, found = CUTS[world_size], []
    for place, one in enumerate(told):
        settings = {"exchange": exchanges[place // len(cuts) % len(exchanges)], **one.get("settings", {})}
        found.append(Case(**{**one, "cut": cuts[place % len(cuts)], "settings": settings}))
    return found
