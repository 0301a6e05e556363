"""Time by turns, so that what else the machine does meets all alike."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Times:
    """Of one piece of work: each round on the wall clock, and the processor time of all threads."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def scaled(self, factor: float) -> "Times":
        return Times([factor * s for s in self.seconds], [factor * s for s in self.cpu_seconds])

    @property
    def middle(self) -> float:
        """The median on the wall clock."""
        return median(self.seconds)

    @property
    def cpu_middle(self) -> float:
        """The median of the processor time."""
        return median(self.cpu_seconds)


def run_once(work: Callable[[], object], into: Times) -> None:
    """Do the work and add what it took."""
    gc.collect()
    start, busy = time.perf_counter(), time.process_time()
    work()
    into.cpu_seconds.append(time.process_time() - busy)
    into.seconds.append(time.perf_counter() - start)


def take_turns(
    work: Mapping[str, Callable[[], object]], rounds: int, patience: float = float("inf")
) -> dict[str, Times]:
    """Do all pieces of work once a round; start no further round after ``patience`` seconds."""
    times = {name: Times() for name in work}
    began = time.perf_counter()
    for done in range(rounds):
        if done and time.perf_counter() - began > patience:
            break
        for name, piece in work.items():
            run_once(piece, times[name])
    return times
