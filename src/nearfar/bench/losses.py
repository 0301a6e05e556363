"""Forward and backward of the losses: time by turns with the peer and the bare products, then peak memory."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from nearfar.bench import memory
from nearfar.bench.clock import Times, take_turns
from nearfar.bench.memory import Peak, Question
from nearfar.bench.plan import Plan
from nearfar.bench.problems import PROBLEMS, Function, build, make, noise_for, step
from nearfar.bench.products import fastest_name, products
from nearfar.losses import Loss
from nearfar.train.environment import commit, machine, versions

PEER = "pytorch-metric-learning"
NOT_ASKED = "not asked for"


@dataclass(frozen=True)
class Taken:
    """What one side took for one cell.

    Attributes:
        state: "ok", "does not fit", "fails: …", or "not asked for".
        peak_mib: peak memory above the inputs; None where it was not measured.
        peak_less_gradient_mib: the same without the gradient itself, n × dim × 4 bytes.
        computed_by: the backend, of ours.
    """

    state: str
    times: Times = field(default_factory=Times)
    peak_mib: float | None = None
    peak_less_gradient_mib: float | None = None
    computed_by: str | None = None


@dataclass(frozen=True)
class Cell:
    """One loss at one size.

    Attributes:
        products: times of the products that the loss cannot do without, by "torch.mm" and "fastest".
        value_error, gradient_error: how far ours is from the peer's, relative to the peer's value and to its
            largest component of the gradient; None where there is no peer to compare with.
    """

    loss: str
    n: int
    dim: int
    noise: float
    nearfar: Taken
    peer: Taken
    products: dict[str, Times]
    value_error: float | None
    gradient_error: float | None


@dataclass(frozen=True)
class Report:
    """All cells, and where they were measured."""

    command: str
    plan: Plan
    machine: str
    memory_gib: float | None
    versions: dict[str, str]
    commit: str
    threads: int
    load_before: float
    load_after: float
    fastest_product: dict[int, str]
    cells: list[Cell]


def measure(
    plan: Plan,
    *,
    command: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    save: Callable[[Report], object] | None = None,
) -> Report:
    """Measure every loss of the plan at every size, small sizes first.

    Args:
        command: what the report says it was made by; the running command unless given.
        progress: told (cells done, cells).
        save: given the report so far after each cell, so that a long run that is stopped leaves something.

    Raises:
        ConfigError, MissingExtra: see ``Plan.check``.
        NearfarError: if one of our own losses fails.
    """
    plan.check()
    with threads(plan.threads):
        load = os.getloadavg()[0]
        sizes = [(loss, dim, n) for n in sorted(plan.n) for dim in plan.dims for loss in plan.losses]
        cells: list[Cell] = []
        report = _report(plan, command, load, cells)
        for done, (loss, dim, n) in enumerate(sizes):
            if progress is not None:
                progress(done, len(sizes))
            cells.append(_measure(plan, loss, n, dim, cells))
            report = _report(plan, command, load, cells)
            if save is not None:
                save(report)
        if progress is not None:
            progress(len(sizes), len(sizes))
    return report


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use that many threads for a while; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def packages(peer: bool) -> dict[str, str]:
    """Return the versions of what computes, the peer's too where it takes part."""
    found = versions()
    if peer:
        try:
            found[PEER] = version(PEER)
        except PackageNotFoundError:
            found[PEER] = "unknown"
    return found


def running_command() -> str:
    """Return what was typed, without the folders of this machine."""
    return " ".join(["nearfar", *sys.argv[1:]])


def _report(plan: Plan, command: str | None, load: float, cells: list[Cell]) -> Report:
    return Report(
        command=command or running_command(),
        plan=plan,
        machine=machine(torch.device("cpu")),
        memory_gib=memory.total_bytes() / 2**30 if memory.can_measure() else None,
        versions=packages(plan.peer),
        commit=commit() or "none",
        threads=torch.get_num_threads(),
        load_before=load,
        load_after=os.getloadavg()[0],
        fastest_product={dim: fastest_name(dim) for dim in plan.dims},
        cells=list(cells),
    )


def _measure(plan: Plan, loss: str, n: int, dim: int, before: list[Cell]) -> Cell:
    """Measure one cell: first memory, which says what fits, then agreement, then time."""
    ours = _peak(plan, loss, "nearfar", n, dim)
    # Memory grows with n, so what did not fit at a smaller size is not tried again.
    too_large = [c for c in before if (c.loss, c.dim) == (loss, dim) and c.peer.state == memory.DOES_NOT_FIT]
    if not plan.peer:
        theirs = Peak(NOT_ASKED, None)
    elif too_large:
        theirs = Peak(memory.DOES_NOT_FIT, None)
    else:
        theirs = _peak(plan, loss, PEER, n, dim)
    embeddings, labels = make(n, dim)
    sides: dict[str, Function] = {}
    for who, found in (("nearfar", ours), (PEER, theirs)):
        if found.state == "ok":
            sides[who] = build(loss, who, plan.backend)
    errors = _compare(sides, embeddings, labels)
    bare, factor = products(PROBLEMS[loss], embeddings)
    work: dict[str, Callable[[], object]] = {
        who: (lambda function=function: step(function, embeddings, labels)) for who, function in sides.items()
    }
    times = take_turns(work | bare, plan.repeats, plan.patience)

    def taken(who: str, found: Peak) -> Taken:
        less = None if found.mib is None else found.mib - n * dim * 4 / memory.MIB
        return Taken(found.state, times.get(who, Times()), found.mib, less, _backend(sides.get(who)))

    return Cell(
        loss,
        n,
        dim,
        noise_for(dim),
        taken("nearfar", ours),
        taken(PEER, theirs),
        {name: times[name].scaled(factor) for name in bare},
        *errors,
    )


def _peak(plan: Plan, loss: str, who: str, n: int, dim: int) -> Peak:
    if not memory.can_measure():
        return Peak("ok", None)
    limit = memory.free_bytes() * 9 // 10 if plan.limit is None else int(plan.limit * 2**30)
    return memory.peak(Question(loss, who, n, dim, plan.backend, limit, plan.threads))


def _compare(
    sides: dict[str, Function], embeddings: Tensor, labels: Tensor
) -> tuple[float | None, float | None]:
    """Return how far value and gradient are apart. This is also the round that warms up."""
    if len(sides) < 2:
        small = make(min(len(embeddings), 1024), embeddings.shape[1])
        for function in sides.values():
            step(function, *small)
        return None, None
    value, gradient = step(sides["nearfar"], embeddings, labels)
    peer_value, peer_gradient = step(sides[PEER], embeddings, labels)
    apart = (gradient - peer_gradient).abs().max() / peer_gradient.abs().max()
    return abs(value - peer_value) / abs(peer_value), apart.item()


def _backend(function: Function | None) -> str | None:
    """Return what computed our loss, as "auto" chose."""
    if not isinstance(function, Loss) or function.last is None or function.last.pairs is None:
        return None
    return type(function.last.pairs.block).__name__.removesuffix("Block").lower()
