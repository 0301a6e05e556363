"""Processes that share classes out; for tests/criterion/test_shards.py."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import nearfar
import rank_processes
from nearfar.criterion.ranks.shard_state import sharded_weights
from nearfar.distributed import settings
from nearfar.errors import NearfarError
from nearfar.losses import Sum, keep_shards, load_optimizer_state, optimizer_state
from nearfar.losses.parts.registry import registry
from proxy_problems import EVERY

N, WIDTH, DIM = 24, 7, 5
# Rows of each rank: evenly, unevenly, with a rank that has none.
CUTS: dict[int, list[list[int]]] = {
    1: [[24]],
    2: [[12, 12], [1, 23], [24, 0]],
    4: [[6, 6, 6, 6], [11, 1, 9, 3], [10, 0, 14, 0]],
}


@dataclass
class Case:
    """One loss on one batch.

    Attributes:
        among: classes that the batch is of; ranks may have none of them.
        cut: rows of each rank; found by ``cases``.
    """

    name: str
    classes: int = 6
    among: int = 6
    dtype: torch.dtype = torch.float64
    weights: bool = False
    create: dict[str, Any] = field(default_factory=dict)
    gradients: str = "mean"
    cut: list[int] = field(default_factory=list)

    @property
    def key(self) -> str:
        """What one process makes the same of."""
        told = (self.name, self.classes, self.among, self.dtype, self.weights, self.create)
        return repr(told)


def cases(size: int, every: int = 1) -> list[Case]:
    """Every loss with every backend, and what else there is; of that each ``every``-th."""
    found = []
    for name in EVERY:
        kind = registry[name].proxies
        assert kind is not None
        for backend in ("dense", "tiled"):
            found += [Case(name, create={"backend": backend})]
            found += [Case(name, classes=3, among=2, create={"backend": backend})]  # fewer than ranks
            if kind.sampled:
                found += [Case(name, 30, 3, create={"backend": backend, "sample": 0.3})]
            found += [Case(name, 7, dtype=torch.float32, create={"backend": backend})]
    for backend in ("dense", "tiled", "reference"):
        found += [Case("normalized_softmax", create={"backend": backend, "smoothing": 0.1})]
        for similarity in ("dot", "euclidean", "squared_euclidean"):
            found += [Case("proxy_anchor", create={"similarity": similarity, "backend": backend})]
            told = {"similarity": similarity, "backend": backend, "smoothing": 0.2}
            found += [Case("normalized_softmax", create=told)]
    for reduction in ("sum", "mean_valid", "mean_active", "tilted"):
        found += [Case("arcface", weights=True, create={"reduction": reduction})]
        found += [Case("proxy_anchor", create={"reduction": reduction, "class_weights": {0: 2.0, 4: 0.5}})]
    found += [Case("cosface", 9, 2, create={"class_weights": {0: 2.0, 1: 0.5}}, gradients="sum")]
    found += [Case("center", create={"gradient": "paper", "similarity": "squared_euclidean"})]
    found = found[::every]
    for place, case in enumerate(found):
        case.cut = CUTS[size][place % len(CUTS[size])]
    return found


class Model(nn.Module):
    """A network with the loss inside."""

    def __init__(self, case: Case, sharded: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Linear(WIDTH, DIM, bias=False)
        told = {"classes": case.classes, "dim": DIM, "sharded": sharded, **case.create}
        self.loss = nearfar.losses.create(case.name, **told)
        self.to(case.dtype)

    def forward(self, x: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return self.loss(self.net(x), labels, weights=weights)


def batch(case: Case, step: int = 0) -> list[Tensor]:
    """What one process is given."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(N, WIDTH, generator=generator, dtype=torch.float64)
    labels = torch.randint(case.among, (N,), generator=generator)
    weights = torch.rand(N, generator=generator, dtype=torch.float64)
    return [x.to(case.dtype), labels, *([weights.to(case.dtype)] if case.weights else [])]


def part(cut: list[int], rank: int, given: list[Tensor]) -> list[Tensor]:
    """What a rank is given of it."""
    return [tensor.split(cut)[rank] for tensor in given]


def solved(model: nn.Module, given: list[Tensor], rank: int = 0) -> dict[str, Tensor]:
    """Value, gradients, and all that runs over batches; ranks are seeded apart."""
    torch.manual_seed(50 + 100 * rank)
    value = model(*given)
    value.backward()
    bare = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(bare, nn.Module)
    shards = {id(p): shard for _, p, shard in sharded_weights(bare)}
    found = {"value": value.detach()}
    for name, p in bare.named_parameters():
        assert p.grad is not None, f"{name} has no gradient"
        found[name] = shards[id(p)].whole(p.grad) if id(p) in shards else p.grad
    return found | {name: x for name, x in bare.named_buffers() if "running" in name}


def run(size: int, folder: Path, every: int = 1) -> list[dict[str, Any]]:
    """Return what each rank got: for each ``every``-th case, and of everything in ``DONE``."""
    return rank_processes.run(_work, size, size, folder, every)


def _work(rank: int, size: int, folder: Path, every: int) -> dict[str, Any]:
    found: dict[str, Any] = {"cases": []}
    for case in cases(size, every):
        settings.gradients = case.gradients  # pyrefly: ignore[bad-assignment]
        model = DistributedDataParallel(keep_shards(Model(case, sharded=True)))
        try:
            found["cases"].append(solved(model, part(case.cut, rank, batch(case)), rank))
        except Exception as error:
            raise RuntimeError(f"rank {rank}: {case}") from error
    settings.gradients = "mean"
    return {**found, **{name: work(rank, size, folder) for name, work in DONE.items()}}


DONE: dict[str, Callable[[int, int, Path], Any]] = {}


def done(work: Callable[[int, int, Path], Any]) -> Callable[[int, int, Path], Any]:
    DONE[work.__name__] = work
    return work


def sentence(call: Callable[[], Any]) -> str:
    try:
        call()
    except NearfarError as error:
        return str(error)
    return ""


@done
def counts(rank: int, size: int, folder: Path) -> list[int]:
    """Rows of this rank, of 3, 7 and 8 classes of 3 centres each."""
    made = [nearfar.losses.create("sub_center_arcface", classes=n, dim=2, sharded=True) for n in (3, 7, 8)]
    return [len(loss.proxies) for loss in made if loss.proxies is not None]


@done
def draws(rank: int, size: int, folder: Path) -> list[Tensor]:
    """Rows to start from, where ranks are seeded alike and where they are not; and what they draw next."""
    found = []
    for seed in (7, 7 + rank):
        torch.manual_seed(seed)
        made = nearfar.losses.create("proxy_nca", classes=9, dim=3, sharded=True)
        found += [made.state_dict()["proxies"], torch.rand(1)]
    return found


@done
def values_one_by_one(rank: int, size: int, folder: Path) -> dict[str, Tensor]:
    found = {}
    for name in ("arcface", "proxy_anchor"):
        case = Case(name, create={"reduction": "none"}, cut=CUTS[size][-1])
        with torch.no_grad():
            found[name] = Model(case, sharded=True)(*part(case.cut, rank, batch(case)))
    return found


@done
def statistics(rank: int, size: int, folder: Path) -> list[float]:
    """They ask no other rank, so that one may read them alone."""
    case = Case("arcface", cut=CUTS[size][-1])
    model = Model(case, sharded=True)
    model(*part(case.cut, rank, batch(case)))
    assert model.loss.last is not None
    last = model.loss.last
    return (
        [float(last.positive_similarity), float(last.negative_similarity), float(last.active)]
        if not rank
        else []
    )


@done
def sentences(rank: int, size: int, folder: Path) -> dict[str, str]:
    """What is wrong is said on all ranks alike."""
    x, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 8])
    other = nearfar.losses.create("proxy_nca", classes=9, dim=3, sharded=True)
    whole = other if rank == 0 else nearfar.losses.create("proxy_nca", classes=9, dim=3)
    elsewhere = copy.deepcopy(other)
    object.__setattr__(elsewhere.shard, "size", size + 1)
    wrong = {**other.state_dict(), "proxies": torch.zeros(8, 3)}
    return {
        "label": sentence(lambda: other(x, labels + 1)),
        "mixed": sentence(lambda: whole(x, labels)) if size > 1 else "",
        "ranks": sentence(lambda: elsewhere(x, labels)),
        "classes": sentence(lambda: other.load_state_dict(wrong)),
        "alone": sentence(
            lambda: nearfar.losses.create("arcface", classes=3, dim=2, sharded=True, across_ranks=False)
        ),
        "no_proxies": sentence(lambda: nearfar.losses.create("supcon", sharded=True)),
    }


class Beside(nn.Module):
    """Two losses, one of them with its classes shared out."""

    def __init__(self, sharded: bool) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.net = nn.Linear(WIDTH, DIM)
        told = {"classes": 7, "dim": DIM, "sharded": sharded}
        self.losses = Sum(
            {
                nearfar.losses.create("sub_center_arcface", **told): 1.0,
                nearfar.losses.create("adaface", **told, sample=0.5): 0.5,
                nearfar.losses.create("margin"): 0.2,
            }
        )
        self.double()

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.losses(self.net(x), labels)


def train(model: nn.Module, bare: Beside, optimizer: torch.optim.Optimizer, steps: range, given: Any) -> None:
    """Some steps on batches that hang on the step alone."""
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(*given(batch(Case("", 7, 7), step))).backward()
        optimizer.step()
    assert bare.training


def optimizers(model: nn.Module) -> dict[str, torch.optim.Optimizer]:
    return {
        "adamw": torch.optim.AdamW(model.parameters(), lr=0.01),
        "sgd": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    }


@done
def training(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """Two steps more than the run of twice as many ranks, from its checkpoint."""
    found = {}
    for name in ("adamw", "sgd"):
        bare = Beside(sharded=True)
        optimizer = optimizers(bare)[name]
        start = {4: 0, 2: 2, 1: 4}[size]
        if start:
            kept = torch.load(folder / f"{name} of {2 * size}")
            bare.load_state_dict(kept["model"])
            load_optimizer_state(optimizer, bare, kept["optimizer"])
        model = DistributedDataParallel(keep_shards(bare))
        cut = CUTS[size][-1]
        train(model, bare, optimizer, range(start, start + 2), lambda given, cut=cut: part(cut, rank, given))
        kept = {"model": bare.state_dict(), "optimizer": optimizer_state(optimizer, bare)}
        if rank == 0:
            torch.save(kept, folder / f"{name} of {size}")
        found[name] = kept
    torch.distributed.barrier()
    return found
