"""Peak memory of one loss, forward and backward, in a process that has done a small step of it before.

Run as ``python -m nearfar.bench.memory '{"loss": "supcon", …}'`` it measures and prints; ``peak`` does that.
"""

import ctypes
import gc
import json
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from nearfar.errors import NearfarError

MIB = 2**20
CLEAR = Path("/proc/self/clear_refs")
DOES_NOT_FIT = "does not fit"
WARM = 1024
"""Rows of a step before the one that is measured: enough for the code that takes large batches."""


@dataclass(frozen=True)
class Question:
    """What to run.

    Attributes:
        who: "nearfar" or the peer.
        limit: bytes that the loss may take on top of its inputs; None for no limit.
    """

    loss: str
    who: str
    n: int
    dim: int
    backend: str
    limit: int | None
    threads: int | None


@dataclass(frozen=True)
class Peak:
    """The answer.

    Attributes:
        state: "ok", "does not fit", or "fails: …" with the reason.
        mib: the most that was resident, less what was after a small step; None unless ok.
    """

    state: str
    mib: float | None


def can_measure() -> bool:
    """Whether this system says how much memory a process has had at most, and lets it start again."""
    return CLEAR.exists()


def free_bytes() -> int:
    """Return what a process could take without swapping."""
    return _field(Path("/proc/meminfo"), "MemAvailable")


def total_bytes() -> int:
    """Return the memory of this machine."""
    return _field(Path("/proc/meminfo"), "MemTotal")


def peak(question: Question) -> Peak:
    """Measure in a fresh process.

    Raises:
        NearfarError: if that process fails for another reason than memory.
    """
    command = [sys.executable, "-m", "nearfar.bench.memory", json.dumps(asdict(question))]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode == -signal.SIGKILL:  # the kernel took the memory back
        return Peak(DOES_NOT_FIT, None)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or [f"status {child.returncode}"])[-1]
        raise NearfarError(f"the memory of {question.loss} ({question.who}) cannot be measured: {last}")
    return Peak(**json.loads(child.stdout.splitlines()[-1]))


def answer(question: Question) -> Peak:
    """Measure in this process."""
    import resource

    import torch

    from nearfar.bench.problems import build, make, step

    if question.threads is not None:
        torch.set_num_threads(question.threads)
    function = build(question.loss, question.who, question.backend)
    step(function, *make(WARM, question.dim))  # what every process pays once: threads, kernels
    embeddings, labels = make(question.n, question.dim)
    gc.collect()
    _give_back()
    if question.limit is not None:
        used = _field(Path("/proc/self/status"), "VmSize")
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (used + question.limit, hard))
    CLEAR.write_text("5")  # the peak starts again here
    before = _field(Path("/proc/self/status"), "VmRSS")
    try:
        step(function, embeddings, labels)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(word in str(error) for word in ("alloc", "memory")):
            return Peak(DOES_NOT_FIT, None)
        if question.who == "nearfar":
            raise
        return Peak(f"fails: {str(error).splitlines()[0]}", None)
    return Peak("ok", (_field(Path("/proc/self/status"), "VmHWM") - before) / MIB)


def _give_back() -> None:
    """Return freed memory to the system, where the C library keeps some: it would hide in what was before."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _field(file: Path, name: str) -> int:
    """A line of the kernel's such as "VmHWM:  1234 kB", in bytes."""
    lines = file.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    print(json.dumps(asdict(answer(Question(**json.loads(sys.argv[1]))))))
