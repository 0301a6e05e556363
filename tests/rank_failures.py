"""What ranks must live through together (spec of failures), done by all of them at once; see ``rank_troubles``."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import nearfar
from nearfar.distributed import any_rank, settings, world_size
from nearfar.errors import NearfarError
from rank_troubles import last, rows

FAILURES: dict[str, Callable[[int], Any]] = {}

COLLECTIVES = (
    "batch_isend_irecv",
    "all_gather_single",
    "reduce_scatter_single",
    "all_reduce",
    "broadcast",
)


def failure(function: Callable[[int], Any]) -> Callable[[int], Any]:
    FAILURES[function.__name__] = function
    return function


@contextmanager
def counted() -> Iterator[dict[str, list[int]]]:
    """Collectives within, by name: how many numbers each call sends."""
    found: dict[str, list[int]] = {}
    real = {name: getattr(torch.distributed, name) for name in COLLECTIVES}

    def spy(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            sent = arguments[0]
            if isinstance(sent, list):  # operations from one rank to another
                size = sum(job.tensor.numel() for job in sent if job.op is torch.distributed.isend)
            else:
                size = arguments[1].numel() if name.endswith("_single") else sent.numel()
            found.setdefault(name, []).append(size)
            return real[name](*arguments, **named)

        return call

    for name in COLLECTIVES:
        setattr(torch.distributed, name, spy(name))
    try:
        yield found
    finally:
        for name, function in real.items():
            setattr(torch.distributed, name, function)


@failure
def exchanges(rank: int) -> dict[str, Any]:
    """What is sent, and what comes of it: asked for by name, and chosen by size."""
    x, labels = rows(rank)
    gathered = 2 * 6 * world_size() * 4 * 4  # rows and their gradient, 4 dimensions in float32
    found, budget = {}, settings.budget
    for name, exchange, limit in (
        ("gather", "gather", 0),
        ("ring", "ring", budget),
        ("auto, all fit", "auto", gathered),
        ("auto, one byte short", "auto", gathered - 1),
    ):
        settings.exchange, settings.budget = exchange, limit
        x = x.detach().requires_grad_()
        with counted() as sent:
            value = nearfar.losses.create("supcon")(x, labels)
        (gradient,) = torch.autograd.grad(value, x)
        found[name] = {"value": value.detach(), "gradient": gradient, "sent": sent}
    settings.exchange, settings.budget = "auto", budget
    return found


def learner() -> DistributedDataParallel:
    torch.manual_seed(0)
    return DistributedDataParallel(nn.Linear(4, 3))


def train(steps: list[tuple[Tensor, Tensor]], names: tuple[str, ...], wait: float = 0.0) -> Tensor:
    """The weights after some steps of plain descent; a step whose loss is not finite anywhere is left out."""
    model = learner()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = [nearfar.losses.create(name) for name in names]
    for x, labels in steps:
        optimizer.zero_grad()
        embeddings = model(x)
        values = []
        for loss in losses:
            time.sleep(wait * random.random())
            values.append(loss(embeddings, labels))
        value = torch.stack(values).sum()
        if not value.isfinite():
            continue
        value.backward()
        optimizer.step()
    return model.module.weight.detach().clone()


def batches(rank: int, steps: int = 3) -> list[tuple[Tensor, Tensor]]:
    return [rows(rank + 10 * step) for step in range(steps)]


@failure
def jitter(rank: int) -> dict[str, Tensor]:
    """Two losses on ranks that come to them when they like, of which each ends with the same weights."""
    random.seed(rank)
    names = ("supcon", "triplet")
    return {"calm": train(batches(rank), names), "jittered": train(batches(rank), names, wait=0.02)}


@failure
def skipped(rank: int) -> dict[str, Tensor]:
    """A step with NaN on one rank is left out by all, since all look at the loss."""
    steps = batches(rank)
    whole = [steps[0], steps[2]]
    if last(rank):
        steps[1][0][3, 2] = torch.nan
    return {"with": train(steps, ("supcon",)), "without": train(whole, ("supcon",))}


@failure
def one_batch_more(rank: int) -> Tensor:
    """Rank 0 has a batch more than others: they vote, and give empty ones."""
    own = batches(rank, 3 if rank == 0 else 2)
    steps = []
    while any_rank(bool(own))[0]:
        steps.append(own.pop(0) if own else (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)))
    return train(steps, ("supcon",))


@failure
def groups(rank: int) -> dict[str, Any]:
    """Ranks of half the world share a batch; the other half has its own."""
    settings.group, _ = torch.distributed.new_subgroups(world_size() // 2)
    found: dict[str, Any] = {"world": world_size()}
    for exchange in ("gather", "ring"):
        settings.exchange = exchange
        for name in ("multi_similarity", "clip", "uniformity"):
            x, labels = rows(rank)
            x.requires_grad_()
            value = nearfar.losses.create(name)(x, labels)
            (gradient,) = torch.autograd.grad(value, x)
            found[f"{name} {exchange}"] = value.detach(), gradient
    settings.group, settings.exchange = None, "auto"
    return found


@failure
def outside(rank: int) -> str:
    """A rank that its own group does not hold."""
    everyone = world_size()
    settings.group = torch.distributed.new_group(list(range(everyone - 1)))  # pyrefly: ignore
    x, labels = rows(rank)
    try:
        nearfar.losses.create("supcon")(x, labels)
    except NearfarError as error:
        return str(error)
    finally:
        settings.group = None
    return ""
