"""What several ranks do with a memory that is sharded; for tests/memory/test_memory_ranks.py."""

import io
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import nearfar
from memory_rows import rows
from nearfar.criterion.ranks import across
from nearfar.distributed import rank, settings, world_size
from nearfar.losses import Sum
from nearfar.memory import recalled
from rank_troubles import last, sentence
from ranked_problems import EVERY, MEMORY, creations, further

TROUBLES: dict[str, Callable[[int], Any]] = {}
SIZES, FILLED = (40, 45, 37), (3, 51, 96, 100)
N, STEPS = 30, 7
# Rows of each rank, a turn of them for each step: even, uneven, none.
SHARES = {1: [[30]], 2: [[15, 15], [22, 8], [0, 30]], 4: [[8, 8, 7, 7], [1, 20, 0, 9], [0, 0, 30, 0]]}


def trouble(function: Callable[[int], Any]) -> Callable[[int], Any]:
    TROUBLES[function.__name__] = function
    return function


def sharded(told: dict[str, Any], size: int) -> dict[str, Any]:
    """The same problem with a sharded memory of another size."""
    memory = told["memory"]
    size = size if memory["size"] == MEMORY["size"] else memory["size"]
    return {**told, "memory": {**memory, "size": size, "sharded": True}}


def problems(*, all_rules: bool) -> Iterator[dict[str, Any]]:
    """Whatever is tested with a memory, or every loss with every rule."""
    told = [one for one in further() if "memory" in one]
    for dtype in (torch.float64, torch.float32):
        told += [{"create": {"name": name}, "memory": MEMORY, "steps": 2, "dtype": dtype} for name in EVERY]
    if all_rules:
        with_rules = (one for one in creations() if "classes" not in one)
        told = [
            {"create": one, "memory": MEMORY, "steps": 2} for one in with_rules if one["name"] not in ALONE
        ]
    for place, one in enumerate(told):
        yield sharded(one, SIZES[place % len(SIZES)])


ALONE = ("l2_norm", "zero_mean", "uniformity")
"""Losses that compare with nothing."""


def share(step: int, own: int, ranks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, labels and ids of a rank in a step; of one process, all of them. Images come again."""
    x, _ = rows(N, step, dtype=torch.float64)
    ids = (torch.arange(N) + 11 * step) % 170
    counts = SHARES[ranks][step % len(SHARES[ranks])]
    some = slice(sum(counts[:own]), sum(counts[: own + 1]))
    return x[some], ids[some] % 7, ids[some]


def steps(memory: nearfar.CrossBatchMemory, first: int, stop: int) -> dict[str, Any]:
    """Train with a memory: values, this rank's gradients over W, drift."""
    loss, found = nearfar.losses.create("multi_similarity", mining="multi_similarity"), []
    for step in range(first, stop):
        x, labels, ids = share(step, rank(), world_size())
        x.requires_grad_()
        value = loss(x, labels, ids=ids, memory=memory)
        (gradient,) = torch.autograd.grad(value, x)
        found.append({"value": value.detach(), "gradient": gradient / world_size(), "drift": memory.drift})
    return {"steps": found, "state": state(memory)}


def state(memory: nearfar.CrossBatchMemory) -> dict[str, Any]:
    return memory.state_dict()


def file_of(found: dict[str, Any]) -> io.BytesIO:
    """A checkpoint as rank 0 writes it."""
    file = io.BytesIO()
    torch.save(found, file)
    file.seek(0)
    return file


@trouble
def contents(_: int) -> dict[int, dict[str, Any]]:
    """All of it after seven steps, for sizes that nothing divides; and how large it is."""
    return filled(("gather", "ring") if world_size() == 2 else ("ring", "gather"))


def contents_by_the_other(_: int) -> dict[int, dict[str, Any]]:
    """Each size by the exchange that ``contents`` has not taken for it."""
    return filled(("ring", "gather") if world_size() == 2 else ("gather", "ring"))


def filled(exchanges: tuple[str, str]) -> dict[int, dict[str, Any]]:
    """Memories of each size after seven steps, by the exchanges in turns."""
    found = {}
    for place, size in enumerate(FILLED):
        settings.exchange = exchanges[place % 2]
        memory = nearfar.CrossBatchMemory(size, sharded=True)
        whole = steps(memory, 0, STEPS)
        parts = {name: getattr(memory, name) for name in ("embeddings", "inverse", "made")}
        if settings.exchange == "gather":
            whole["plain"] = steps(nearfar.CrossBatchMemory(size), 0, STEPS)["steps"]
        found[size] = {
            **whole,
            "exchange": settings.exchange,
            "rows": {name: len(part) for name, part in parts.items()},
            "bytes": memory.embeddings.untyped_storage().nbytes(),
        }
    settings.exchange = "auto"
    return found


@trouble
def moved(_: int) -> dict[str, Any]:
    """Begun by so many ranks; then on from what one process and what these ranks have saved."""
    alone = nearfar.CrossBatchMemory(51)
    for step in range(4):
        alone.add(*share(step, 0, 1))
    alone.step = 4
    resumed = nearfar.CrossBatchMemory(51, sharded=True)
    resumed.load_state_dict(torch.load(file_of(state(alone)), weights_only=True))
    whole = nearfar.CrossBatchMemory(51)
    whole.load_state_dict(torch.load(file_of(state(resumed)), weights_only=True))
    again = nearfar.CrossBatchMemory(51, sharded=True)
    again.load_state_dict(state(resumed))
    return {
        "saved": state(resumed),
        "sharded": steps(resumed, 4, STEPS),
        "whole": steps(whole, 4, STEPS),
        "again": steps(again, 4, STEPS),
    }


@trouble
def added_by_hand(_: int) -> dict[str, Any]:
    memory = nearfar.CrossBatchMemory(9, sharded=True)
    memory.add(*rows(5, 0))
    memory.add(*rows(7, 1))
    return state(memory)


@trouble
def half_precision(_: int) -> dict[str, Any]:
    """Rows that float16 cannot hold are left out, on whichever rank; what is held in main memory as well."""
    memory = nearfar.CrossBatchMemory(20, dtype=torch.float16, device="cpu", sharded=True)
    x, labels, ids = share(1, rank(), world_size())
    x = torch.where(ids[:, None] % 5 == 0, 7e4, x).requires_grad_()
    nearfar.losses.create("supcon")(x, labels, ids=ids, memory=memory)
    return state(memory)


@trouble
def outside_training(_: int) -> list[Any]:
    """It is read by a loss in evaluation, and left as it is."""
    memory, loss = nearfar.CrossBatchMemory(30, sharded=True), nearfar.losses.create("supcon")
    found = []
    for step, training in enumerate([True, False, False]):
        x, labels, ids = share(step, rank(), world_size())
        value = loss.train(training)(x.requires_grad_(), labels, ids=ids, memory=memory)
        found += [value.detach(), len(memory), memory.step]
    return found


@trouble
def sum_of_losses(_: int) -> list[Tensor]:
    """Several losses of one step read the same rows, which are stored once; also before the loss."""
    found = []
    for told in ({}, {"combine": "memory", "enqueue": "before"}):
        losses, memory = (
            Sum({"supcon": 1.0, "contrastive": 0.5}),
            nearfar.CrossBatchMemory(33, sharded=True, **told),
        )
        for step in range(3):
            x, labels, ids = share(step, rank(), world_size())
            value = losses(x.requires_grad_(), labels, ids=ids, memory=memory)
            found += [value.detach(), torch.tensor(len(memory))]
    return found


@trouble
def beyond_the_budget(_: int) -> list[int]:
    """``auto`` counts the memory: how often something was gathered of it, with a small budget and a large one."""
    before, found = settings.budget, []
    for budget in (2 * N * 8 * 8, before):
        settings.budget = budget
        memory, loss = nearfar.CrossBatchMemory(100, sharded=True), nearfar.losses.create("supcon")
        with patch.object(recalled, "gathered", wraps=recalled.gathered) as gathered:
            for step in range(2):
                x, labels, _ids = share(step, rank(), world_size())
                loss(x.requires_grad_(), labels, memory=memory)
        found.append(gathered.call_count)
    settings.budget = before
    return found


@trouble
def seen_in_the_ring(_: int) -> list[int]:
    """How often the rows of all ranks were put together on each: for a memory that is sharded, and one that is not."""
    found, settings.exchange = [], "ring"
    for told in (True, False):
        memory, loss = nearfar.CrossBatchMemory(40, sharded=told), nearfar.losses.create("supcon")
        with patch.object(across, "rows_of_all", wraps=across.rows_of_all) as gathered:
            for step in range(3):
                x, labels, ids = share(step, rank(), world_size())
                loss(x.requires_grad_(), labels, ids=ids, memory=memory)
        found.append(gathered.call_count)
    settings.exchange = "auto"
    return found


@trouble
def kept_to_a_rank(_: int) -> str:
    x, labels, _ids = share(0, rank(), world_size())
    memory, loss = (
        nearfar.CrossBatchMemory(9, sharded=True),
        nearfar.losses.create("supcon", across_ranks=False),
    )
    return sentence(lambda: loss(x, labels, memory=memory))


@trouble
def sharded_on_some(own: int) -> str:
    x, labels, _ids = share(0, rank(), world_size())
    memory = nearfar.CrossBatchMemory(9, sharded=last(own))
    return sentence(lambda: nearfar.losses.create("supcon")(x, labels, memory=memory))


@trouble
def another_size(own: int) -> str:
    x, labels, _ids = share(0, rank(), world_size())
    memory = nearfar.CrossBatchMemory(9 + last(own), sharded=True)
    return sentence(lambda: nearfar.losses.create("supcon")(x, labels, memory=memory))


@trouble
def another_type(own: int) -> str:
    x, labels, _ids = share(0, rank(), world_size())
    memory = nearfar.CrossBatchMemory(9, dtype=torch.float16 if last(own) else None, sharded=True)
    return sentence(lambda: nearfar.losses.create("supcon")(x, labels, memory=memory))


@trouble
def another_batch(_: int) -> str:
    """Labels of another kind than what is stored."""
    memory = nearfar.CrossBatchMemory(9, sharded=True)
    memory.add(*rows(5, 0))
    x, labels = rows(4, 1)
    return sentence(lambda: nearfar.losses.create("supcon")(x[:, :3], labels, memory=memory))
