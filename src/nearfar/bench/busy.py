"""The same loss while another process keeps a core busy, as the workers of a data loader do."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from nearfar.bench.clock import Times, run_once
from nearfar.bench.losses import PEER, packages, running_command, threads
from nearfar.bench.plan import Plan
from nearfar.bench.problems import build, make, step
from nearfar.train.environment import commit, machine

WORKER = "print(flush=True)\nwhile True: pass"


@dataclass(frozen=True)
class Slowed:
    """One loss at one size, alone and beside the worker.

    Attributes:
        slower: median time beside the worker over median time alone.
        over_fair: the same over what a fair share of the cores would cost; 1 is fair, more is waiting.
    """

    loss: str
    n: int
    dim: int
    who: str
    alone: Times
    beside: Times
    slower: float
    over_fair: float


@dataclass(frozen=True)
class BusyReport:
    """All that was measured, and where.

    Attributes:
        fair: how many times longer t threads and one worker take on c cores when each gets the same share:
            max(1, (t + 1) / c).
    """

    command: str
    plan: Plan
    machine: str
    versions: dict[str, str]
    commit: str
    cores: int
    threads: int
    load_before: float
    fair: float
    cells: list[Slowed]


def measure_busy(
    plan: Plan, *, command: str | None = None, progress: Callable[[int, int], None] | None = None
) -> BusyReport:
    """Measure each loss of the plan at each size, alone and beside the worker by turns.

    Raises:
        ConfigError, MissingExtra: see ``Plan.check``.
    """
    plan.check()
    load = os.getloadavg()[0]
    who = ["nearfar", PEER] if plan.peer else ["nearfar"]
    sizes = [
        (loss, n, dim, side) for n in plan.n for dim in plan.dims for loss in plan.losses for side in who
    ]
    cells = []
    with threads(plan.threads):
        fair = fair_share(torch.get_num_threads(), cores())
        for done, (loss, n, dim, side) in enumerate(sizes):
            if progress is not None:
                progress(done, len(sizes))
            alone, beside = _by_turns(plan, loss, n, dim, side)
            slower = beside.middle / alone.middle
            cells.append(Slowed(loss, n, dim, side, alone, beside, slower, slower / fair))
        if progress is not None:
            progress(len(sizes), len(sizes))
        return BusyReport(
            command=command or running_command(),
            plan=plan,
            machine=machine(torch.device("cpu")),
            versions=packages(plan.peer),
            commit=commit() or "none",
            cores=cores(),
            threads=torch.get_num_threads(),
            load_before=load,
            fair=fair,
            cells=cells,
        )


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fair_share(threads: int, cores: int) -> float:
    """Return how many times longer work in ``threads`` takes beside one busy process, all sharing alike.

    max(1, (threads + 1) / cores), for threads <= cores
    """
    return max(1.0, (threads + 1) / max(cores, threads))


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy."""
    command = [sys.executable, "-I", "-S", "-c", WORKER]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()  # it runs
        try:
            yield
        finally:
            worker.kill()


def _by_turns(plan: Plan, loss: str, n: int, dim: int, who: str) -> tuple[Times, Times]:
    function = build(loss, who, plan.backend)
    embeddings, labels = make(n, dim)

    def work() -> object:
        return step(function, embeddings, labels)

    work()
    alone, beside = Times(), Times()
    for _ in range(plan.repeats):
        run_once(work, alone)
        with busy_core():
            run_once(work, beside)
    return alone, beside
