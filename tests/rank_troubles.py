"""What can go wrong, or be unusual, on one rank of two or more; each is done by all of them at the same time."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import nearfar
from nearfar.distributed import settings, world_size
from nearfar.errors import NearfarError
from nearfar.losses import Sum

TROUBLES: dict[str, Callable[[int], Any]] = {}


def trouble(function: Callable[[int], Any]) -> Callable[[int], Any]:
    TROUBLES[function.__name__] = function
    return function


def rows(rank: int, n: int = 6, dim: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(n, dim, generator=generator), torch.arange(n) % 3


def sentence(call: Callable[[], Any]) -> str:
    """What a loss says to it, and that it works again afterwards."""
    try:
        call()
    except NearfarError as error:
        said = f"{type(error).__name__}: {error}"
    else:
        said = ""
    loss = nearfar.losses.create("supcon")
    assert loss(torch.randn(4, 3), torch.tensor([0, 0, 1, 1])).isfinite()
    return said


def last(rank: int) -> bool:
    return rank == world_size() - 1


@trouble
def dimensions(rank: int) -> str:
    x, labels = rows(rank, dim=5 if last(rank) else 4)
    return sentence(lambda: nearfar.losses.create("supcon")(x, labels))


@trouble
def types(rank: int) -> str:
    x, labels = rows(rank)
    x = x.double() if last(rank) else x
    return sentence(lambda: nearfar.losses.create("supcon")(x, labels))


@trouble
def not_finite(rank: int) -> dict[str, list[Tensor]]:
    """Something is NaN or infinite on the last rank alone: every value and gradient of all ranks.

    The exchanges in turns: a loss has one of them on two ranks and the other on four.
    """
    found, turns = {}, ("gather", "ring")
    for place, (name, create) in enumerate(
        {
            "supcon": {},
            "clip": {},
            "triplet": {"mining": "hard"},
            "margin": {"mining": "semi_hard", "backend": "tiled"},
            "multi_similarity": {"mining": "multi_similarity"},
            "uniformity": {},
            "histogram": {"bins": 5},
            "proxy_anchor": {"classes": 3, "dim": 4},
            "adaface": {"classes": 3, "dim": 4},
            "curricular_face": {"classes": 3, "dim": 4, "sharded": True},
        }.items()
    ):
        settings.exchange = turns[(place + world_size() // 4) % 2]
        torch.manual_seed(0)
        loss, (x, labels) = nearfar.losses.create(name, **create), rows(rank)
        x[2, 1] = torch.nan if last(rank) else 0.0
        x.requires_grad_()
        value = loss(x, labels)
        gradients = torch.autograd.grad(value, [x, *loss.parameters()])
        found[name] = [value.detach(), *gradients]
        for key, running in loss.named_buffers():
            if key.startswith("running_"):
                assert running == loss._entry.running[key.removeprefix("running_")]
        y = rows(rank)[0].requires_grad_()
        assert loss(y, labels).isfinite()
        if name in ("supcon", "clip"):
            z = rows(rank + 5)[0]
            z[0, 0] = torch.inf if last(rank) else 0.0
            value = loss(y, labels, z.requires_grad_(), labels)
            found[f"{name}, candidates"] = [value.detach(), *torch.autograd.grad(value, [y, z])]
    settings.exchange = "auto"
    return found


@trouble
def learned_is_not_finite(rank: int) -> dict[str, list[Tensor]]:
    """Proxies of the last rank: its copy of all, or its own of classes that ranks share out."""
    found = {}
    for sharded in (False, True):
        torch.manual_seed(0)
        loss, (x, labels) = nearfar.losses.create("arcface", classes=8, dim=4, sharded=sharded), rows(rank)
        with torch.no_grad():
            loss.proxies[-1, 0] = torch.nan if last(rank) else 0.0
        value = loss(x.requires_grad_(), labels)
        found[f"sharded={sharded}"] = [value.detach(), *torch.autograd.grad(value, [x, loss.proxies])]
    return found


@trouble
def memory_without_broken_rows(rank: int) -> dict[str, Any]:
    """Every rank has the rows that are finite, of all ranks; each has a part where that is so."""
    found = {}
    for sharded, exchange in ((False, "gather"), (True, "gather"), (True, "ring")):
        settings.exchange = exchange
        memory = nearfar.CrossBatchMemory(60, sharded=sharded)
        loss, values = nearfar.losses.create("triplet", mining="hard"), []
        for _ in range(2):
            x, labels = rows(rank)
            x[2, 1] = torch.inf if last(rank) else 0.0
            values.append(loss(x.requires_grad_(), labels, memory=memory).detach())
        state = memory.state_dict()
        state = state.get("_extra_state", state)
        stored = state["embeddings"][: len(memory)].clone()
        found[f"sharded={sharded} {exchange}"] = values, len(memory), stored
    settings.exchange = "auto"
    return found


@trouble
def too_few_labels(rank: int) -> str:
    x, labels = rows(rank)
    return sentence(lambda: nearfar.losses.create("supcon")(x, labels[: 4 if last(rank) else 6]))


@trouble
def no_tensor(rank: int) -> str:
    x, labels = rows(rank)
    return sentence(lambda: nearfar.losses.create("supcon")(None if last(rank) else x, labels))


@trouble
def other_labels(rank: int) -> str:
    x, labels = rows(rank)
    labels = nn.functional.one_hot(labels) if last(rank) else labels
    return sentence(lambda: nearfar.losses.create("supcon")(x, labels))


@trouble
def ids_on_some(rank: int) -> str:
    x, labels = rows(rank)
    ids = torch.arange(6) if last(rank) else None
    return sentence(lambda: nearfar.losses.create("supcon")(x, labels, ids=ids))


@trouble
def other_loss(rank: int) -> str:
    x, labels = rows(rank)
    return sentence(lambda: nearfar.losses.create("ntxent" if last(rank) else "supcon")(x, labels))


@trouble
def unknown_class(rank: int) -> str:
    x, labels = rows(rank)
    labels = labels + 5 if last(rank) else labels
    return sentence(lambda: nearfar.losses.create("proxy_nca", classes=3, dim=4)(x, labels))


@trouble
def one_by_one(rank: int) -> str:
    x, labels = rows(rank)
    loss = nearfar.losses.create("supcon", reduction="none")
    return sentence(lambda: loss(x.requires_grad_(last(rank)), labels))


@trouble
def learned_weights(rank: int) -> str:
    x, labels = rows(rank)
    weights = torch.ones(6, requires_grad=last(rank))
    return sentence(lambda: nearfar.losses.create("supcon")(x, labels, weights=weights))


@trouble
def other_memory(rank: int) -> str:
    x, labels = rows(rank)
    memory = nearfar.CrossBatchMemory(10)
    if last(rank):
        memory.add(x, labels)
    return sentence(lambda: nearfar.losses.create("supcon")(x, labels, memory=memory))


@trouble
def other_exchange(rank: int) -> str:
    x, labels = rows(rank)
    settings.exchange = "ring" if last(rank) else "gather"
    try:
        nearfar.losses.create("supcon")(x, labels)
    except NearfarError as error:
        return str(error)
    finally:
        settings.exchange = "auto"
    return ""


@trouble
def values_without_gradient(rank: int) -> dict[str, Tensor]:
    """Each rank has the values of its own anchors; the mean is that of all."""
    x, labels = rows(rank, n=3 + rank)
    found = {}
    with torch.no_grad():
        for name in ("supcon", "clip"):
            each = nearfar.losses.create(name, reduction="none")(x, labels)
            mean = nearfar.losses.create(name, reduction="mean")(x, labels)
            found[name] = torch.stack([each.sum(), torch.tensor(float(len(each))), mean])
    return found


@trouble
def local(rank: int) -> float:
    """A rank for itself: no other rank is asked, so that one may do it alone."""
    if not last(rank):
        return 0.0
    x, labels = rows(rank)
    mean = nearfar.losses.create("supcon", across_ranks=False)(x, labels)
    by_hand = nearfar.losses.create("supcon", across_ranks=False, backend="reference")(x, labels)
    return float((mean - by_hand).abs())


@trouble
def no_backward(rank: int) -> Tensor:
    """Rank 0 leaves a backward pass out; the loss goes on."""
    (x, labels), found = rows(rank), []
    for exchange in ("gather", "ring"):
        settings.exchange = exchange
        for step in range(3):
            x = x.detach().requires_grad_()
            value = nearfar.losses.create("supcon")(x, labels)
            if rank > 0 or step != 1:
                value.backward()
            found.append(value.detach())
    settings.exchange = "auto"
    return torch.stack(found)


@trouble
def gradient_on_one_rank(rank: int) -> Tensor | None:
    """The last rank alone trains; it still hears of what others compare its rows with."""
    x, labels = rows(rank)
    x.requires_grad_(last(rank))
    value = nearfar.losses.create("supcon")(x, labels)
    if not last(rank):
        assert not value.requires_grad
        return None
    return torch.autograd.grad(value, x)[0]


@trouble
def warns_once(rank: int) -> list[str]:
    x, _ = rows(rank)
    labels = torch.arange(6) + 10 * rank
    loss = nearfar.losses.create("supcon")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss(x, labels)
        loss(x, labels)
    return [str(warning.message) for warning in caught]


@trouble
def none_anywhere(rank: int) -> dict[str, Tensor]:
    """No rank has a row."""
    found = {}
    for exchange in ("gather", "ring"):
        settings.exchange = exchange
        for name in ("supcon", "clip", "triplet"):
            x = torch.zeros(0, 4, requires_grad=True)
            value = nearfar.losses.create(name)(x, torch.zeros(0, dtype=torch.long))
            (gradient,) = torch.autograd.grad(value, x)
            found[f"{name} {exchange}"] = value.detach()
            assert gradient.shape == (0, 4)
    settings.exchange = "auto"
    return found


@trouble
def memory_contents(rank: int) -> dict[str, Any]:
    """Every rank holds what one process would, also through a checkpoint of rank 0."""
    memory, loss = nearfar.CrossBatchMemory(10), nearfar.losses.create("supcon")
    for step in range(3):
        x, labels = rows(rank + 10 * step, n=3 + rank)
        loss(x.requires_grad_(), labels, memory=memory)
    state = memory.state_dict()
    return {key: state[key] for key in ("embeddings", "labels", "added", "step")}


@trouble
def sum_of_losses(rank: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    losses = Sum({"supcon": 1.0, "proxy_nca": 0.5, "uniformity": 0.1}, classes=3, dim=4)
    memory = nearfar.CrossBatchMemory(20)
    model = DistributedDataParallel(nn.ModuleDict({"net": nn.Linear(4, 4), "losses": losses}))
    del model
    for step in range(2):
        x, labels = rows(rank + 10 * step)
        x.requires_grad_()
        value = losses(x, labels, memory=memory)
    (gradient,) = torch.autograd.grad(value, x)
    return {"value": value.detach(), "gradient": gradient, "stored": torch.tensor(len(memory))}


@trouble
def half_precision(rank: int) -> dict[str, Tensor]:
    """Rows travel as they are; the gradient is that of the rounded rows, in their type."""
    x, labels = rows(rank)
    found = {}
    for exchange in ("gather", "ring"):
        settings.exchange = exchange
        half = x.bfloat16().requires_grad_()
        value = nearfar.losses.create("supcon")(half, labels)
        found[exchange] = torch.autograd.grad(value, half)[0]
    settings.exchange = "auto"
    return found


def told(calls: Callable[[], Any]) -> list[str]:
    """What a rank is warned of, less what has nothing to do with weights and rows."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        calls()
    words = ("the weights of", "one batch is there twice")
    return [str(one.message) for one in found if any(word in str(one.message) for word in words)]


def steps_of_descent(loss: nn.Module, rank: int, many: int, seed: Callable[[int], int]) -> None:
    """As an engine does it that wraps the network alone: every rank moves the weights by its own gradient."""
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    for step in range(many):
        x, labels = rows(seed(rank) + 10 * step)
        optimizer.zero_grad()
        loss(x.requires_grad_(), labels).backward()
        optimizer.step()


@trouble
def weights_that_go_apart(rank: int) -> dict[str, list[str]]:
    def create(name: str, seed: int = 0, **more: Any) -> nn.Module:
        torch.manual_seed(seed)
        return nearfar.losses.create(name, classes=3, dim=4, **more)

    def alike() -> None:
        loss = DistributedDataParallel(create("arcface"))
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
        for step in range(4):
            optimizer.zero_grad()
            x, labels = rows(rank + 10 * step)
            loss(x, labels).backward()
            optimizer.step()

    def frozen() -> None:
        loss = create("arcface").requires_grad_(False)
        for step in range(4):
            loss(rows(rank + 10 * step)[0].requires_grad_(), rows(rank)[1])

    return {
        "alone": told(lambda: steps_of_descent(create("arcface"), rank, 5, lambda r: r)),
        "other seeds": told(lambda: create("margin", seed=rank)(*rows(rank))),
        "drawn apart": told(lambda: create("proxy_nca", seed=rank)(*rows(rank))),
        "wrapped": told(alike),
        "frozen": told(frozen),
        "shared out": told(lambda: create("arcface", sharded=True)(*rows(rank))),
        "no weights": told(lambda: nearfar.losses.create("supcon")(*rows(rank))),
    }


@trouble
def one_batch_on_two_ranks(rank: int) -> dict[str, list[str]]:
    loss = nearfar.losses.create("supcon")
    x, labels = rows(0)
    order = torch.arange(6).roll(rank)

    def several() -> None:
        for step in range(4):
            loss(*rows(7 + step))

    others = rows(rank)[0]
    fresh = lambda: nearfar.losses.create("supcon")  # noqa: E731
    return {
        "every step": told(several),
        "in another order": told(lambda: fresh()(x[order], labels[order])),
        "other pictures of the same things": told(
            lambda: fresh()(others, labels, ids=torch.arange(6).roll(rank))
        ),
        "its own": told(lambda: fresh()(others, labels, ids=torch.arange(6) + 6 * rank)),
        "nothing": told(lambda: fresh()(x[:0], labels[:0])),
    }
