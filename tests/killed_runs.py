"""Trains in child processes that are killed at chosen or at random moments; for tests/train/test_resume.py."""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import nearfar.files
import rank_processes
from nearfar.config import Config
from nearfar.models import Embedder
from nearfar.models.small import Small
from nearfar.train import JsonLines, read_log, train

OVERRIDES = [
    "model.dim=16",
    "batch.classes_per_batch=3",
    "batch.images_per_class=2",
    "loss.mining=semi_hard",
    "loss.name=triplet",
    "loss.margin=0.3",
    "augment.rotate=20",
    "augment.erase=0.5",
    "optimizer.lr=0.003",
    "optimizer.head_only_epochs=1",
    "optimizer.clip_norm=1",
    "train.epochs=2",
    "train.precision=float32",
    "train.device=cpu",
    "train.checkpoint_minutes=1e-9",  # after every step
]
FROM_DISK = ["data.memory_limit=0B", "data.workers=1"]


def begin(pictures: str, run: Path, overrides: list[str], resume: bool, tracker: Any = None) -> None:
    """Train with dropout, from weights that are the same in each process."""
    torch.set_num_threads(1)
    torch.manual_seed(7)
    backbone = nn.Sequential(Small((8, 16)), nn.Dropout2d(0.3))
    embedder = Embedder(backbone, dim=16, size=32)
    trackers = [] if tracker is None else [tracker]
    config = Config.load(pictures, [*OVERRIDES, *overrides])
    train(config, run, resume=resume, progress=False, embedder=embedder, trackers=trackers)


def in_child(work: Callable[[], None], watch: Callable[[int], None] | None = None) -> int:
    """Run ``work`` in a fork and return its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if watch is not None:
        watch(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class KillAt(JsonLines):
    """A tracker that kills its process when a step is told."""

    def __init__(self, step: int) -> None:
        self.at = step

    def log(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "step" and record["step"] == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def finish(self) -> None:
        pass


def kill_in_write(name: str, count: int) -> None:
    """Die between the writing of the ``count``-th temporary file called ``name`` and its taking the place."""
    real, seen = Path.replace, 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal seen
        seen += Path(target).name == name and Path(target).parent.name == "last"
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, target)

    nearfar.files.Path.replace = replace  # type: ignore[method-assign]


def kill_after_lines(run: Path, lines: int) -> Callable[[int], None]:
    """Kill from outside, whatever the child does just then."""

    def watch(child: int) -> None:
        log = run / "log.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if log.exists() and log.read_bytes().count(b"\n") > lines:
                break
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)

    return watch


def summary(run: Path) -> dict[str, Any]:
    """Return hashes of all that a run decides, and its log without times."""
    state = torch.load(run / "last" / "checkpoint.pt", weights_only=True)
    for key in ("seconds", "log_size"):
        state.pop(key, None)
    state["progress"].pop("seconds")
    for key in ("workers", "memory_limit"):
        state["config"]["data"].pop(key)
    times = ("seconds", "images_per_second")
    log = [record for record in read_log(run / "log.jsonl") if record["kind"] in ("step", "validation")]
    for record in log:
        for key in times:
            record.pop(key, None)
    model = (run / "model" / "weights.safetensors").read_bytes()
    return {"state": digest(state), "model": hashlib.sha256(model).hexdigest(), "log": digest(log)}


def digest(value: Any) -> str:
    """Hash tensors bit by bit inside plain containers."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)} " + hashlib.sha256(value.numpy().tobytes()).hexdigest()
    if isinstance(value, Mapping):
        inner = "".join(f"{key}:{digest(item)}" for key, item in sorted(value.items(), key=str))
    elif isinstance(value, list | tuple):
        inner = "".join(digest(item) for item in value)
    else:
        inner = repr(value)
    return hashlib.sha256(inner.encode()).hexdigest()


def run(pictures: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Train once undisturbed, then in pieces: what each run came to."""
    (found,) = rank_processes.run(_run, 1, pictures, folder, grouped=False)
    return found


def _run(_: int, pictures: str, folder: Path) -> dict[str, dict[str, Any]]:
    killed, found = -signal.SIGKILL, {}

    def run(name: str, overrides: list[str], *deaths: Callable[[Path, bool], int]) -> None:
        place = folder / name
        for number, death in enumerate(deaths):
            assert death(place, number > 0) == killed, f"{name}: not killed"
        assert in_child(lambda: begin(pictures, place, overrides, bool(deaths))) == 0, name
        found[name] = summary(place)

    def at_step(step: int, overrides: list[str]) -> Callable[[Path, bool], int]:
        return lambda place, resume: in_child(lambda: begin(pictures, place, overrides, resume, KillAt(step)))

    def in_write(count: int) -> Callable[[Path, bool], int]:
        def death(place: Path, resume: bool) -> int:
            def work() -> None:
                kill_in_write("checkpoint.pt", count)
                begin(pictures, place, [], resume)

            return in_child(work)

        return death

    def outside(lines: int) -> Callable[[Path, bool], int]:
        return lambda place, resume: in_child(
            lambda: begin(pictures, place, [], resume), kill_after_lines(place, lines)
        )

    run("whole", [])
    run("before the first checkpoint", [], at_step(1, []))
    run("within an epoch, twice", [], at_step(5, []), at_step(11, []))
    run("while a checkpoint is written", [], in_write(7), in_write(3))
    run("between model and checkpoint", [], in_write(6))
    run("at any moment", [], outside(4), outside(10))
    run("from disk, by workers", FROM_DISK, at_step(8, FROM_DISK))
    return found
