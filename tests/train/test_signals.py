"""Signals to a training and to the processes that read its images."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch

import rank_processes
from nearfar.cli.app import run
from nearfar.config import Config
from nearfar.data.workers import WorkerLost
from nearfar.train import RunInterrupted, read_log, train
from nearfar.train.checkpoint import load_checkpoint
from nearfar.train.stopping import StopRequest
from rank_processes import server
from stopped_runs import At, assert_same_weights, changed

WORKERS = {"workers": 2, "memory_limit": "0B"}


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Hear SIGHUP also where these tests run under nohup, which trainings heed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL) if hasattr(signal, "SIGHUP") else None
    yield
    if before is not None:
        signal.signal(signal.SIGHUP, before)


def children() -> list[int]:
    """Processes of this one, the readers of images among them."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


@pytest.fixture
def command(pictures: Path, tmp_path: Path) -> list[str]:
    settings = [
        "model.backbone=nearfar/small",
        "model.size=32",
        "batch.classes_per_batch=3",
        "train.epochs=400",
    ]
    settings += [
        "data.workers=2",
        "data.memory_limit=0B",
        "train.precision=float32",
        "train.validate_on=none",
    ]
    return ["train", str(pictures), *settings, "--folder", str(tmp_path / "run")]


def begun(command: list[str], folder: Path, told: Path, lines: int = 5) -> ForkServerProcess:
    """Start a training in a group of its own and return once it makes steps."""
    process = server.Process(target=begin, args=(command, told))
    process.start()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive():
        if (folder / "log.jsonl").exists() and (folder / "log.jsonl").read_bytes().count(b"\n") > lines:
            return process
        time.sleep(0.02)
    process.kill()
    raise AssertionError(told.read_text())


def begin(command: list[str], told: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with told.open("w") as file:
        os.dup2(file.fileno(), 2)
    sys.exit(run(command))


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs groups of processes")
def test_a_signal_to_the_group_leaves_a_checkpoint(command: list[str], tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        lines = len(read_log(tmp_path / "run" / "log.jsonl")) if (tmp_path / "run").exists() else 0
        again = ["--resume"] if lines else []
        process = begun([*command, *again], tmp_path / "run", tmp_path / "told", lines + 5)
        os.killpg(process.pid, number)
        process.join(60)
        told = (tmp_path / "told").read_text()
        assert process.exitcode == 1, told
        assert "nearfar: stopping as soon as this step is done, with a checkpoint" in told
        assert told.splitlines()[-1].startswith("nearfar: stopped after step ")
        assert "should not happen" not in told
        step = load_checkpoint(tmp_path / "run" / "last")["progress"]["step"]
        assert f"stopped after step {step} of " in told


def test_a_worker_outlives_the_signals_of_its_group(config: Config, tmp_path: Path) -> None:
    config = changed(config, "data", **WORKERS)
    train(config, tmp_path / "whole", progress=False)

    def to_all() -> None:
        readers = [pid for pid in children() if os.getpgid(pid) != os.getpgid(0)]
        assert len(readers) >= 2
        os.kill(os.getpid(), signal.SIGHUP)

    with pytest.raises(RunInterrupted, match="stopped after step 4 of 12"):
        train(config, tmp_path / "run", progress=False, trackers=[At(to_all, kind="step", step=4)])
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


# torch raises what it hears of a worker wherever Python stands, in a __del__ too, which cannot pass it on.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_worker_is_one_sentence(config: Config, tmp_path: Path) -> None:
    config = changed(changed(config, "data", **WORKERS), "train", epochs=9)

    def kill() -> None:
        reader = next(pid for pid in children() if os.getpgid(pid) != os.getpgid(0))
        os.kill(reader, signal.SIGKILL)
        time.sleep(0.2)  # for the system's word of it to come

    with pytest.raises(
        WorkerLost, match=r"^process [\d, ]+, which read images, ended \(it was killed\), .* --resume\.$"
    ):
        train(config, tmp_path / "run", progress=False, trackers=[At(kill, kind="step", step=9)])
    train(config, tmp_path / "run", resume=True, progress=False)


def test_what_a_second_signal_says(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with StopRequest(tmp_path / "run") as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(
            KeyboardInterrupt, match=rf"without a checkpoint .*: nearfar train {tmp_path / 'run'} --resume$"
        ):
            os.kill(os.getpid(), signal.SIGINT)
    first, *more = capfd.readouterr().err.splitlines()
    assert (
        first
        == "nearfar: stopping as soon as this step is done, with a checkpoint; Ctrl-C stops at once, without."
    )
    assert [line.startswith("nearfar: still stopping: ") for line in more] == [True, True]


def test_hangups_that_are_ignored_stay_so(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(tmp_path) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_system_without_hangups(tmp_path: Path) -> None:
    code = (
        "import importlib, signal, os\n"
        "for name in ('SIGHUP', 'pthread_sigmask'): delattr(signal, name)\n"
        "del os.setpgid\n"
        "import nearfar.data.workers as workers, nearfar.train.stopping as stopping\n"
        "for module in (workers, stopping): importlib.reload(module)\n"
        "workers.stand_apart(0)\n"
        "with workers.signals_wait(): pass\n"
        "print(len(stopping.SIGNALS))"
    )
    assert rank_processes.printed(code, tmp_path) == ["2"]


def test_a_signal_before_the_first_step(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError

    monkeypatch.setattr("nearfar.train.start.tables_of", read)
    with pytest.raises(KeyboardInterrupt, match="stopped before training began"):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
