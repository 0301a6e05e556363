"""A run folder belongs to one training at a time, and a training that was killed leaves it free."""

import os
import signal
import time
import tomllib
from pathlib import Path

import pytest

from held_folders import begin_together, holder
from nearfar.cli import runs
from nearfar.config import Config
from nearfar.train import RunInterrupted, train
from nearfar.train.lock import LOCK, FolderTaken, taken
from stopped_runs import At, changed, interrupt


def test_a_folder_that_another_process_trains_in(config: Config, tmp_path: Path) -> None:
    process = holder(tmp_path / "run")
    try:
        message = (
            rf"^{tmp_path / 'run'} is being trained in by process {process.pid} on .*; wait for it or choose"
        )
        for resume in (False, True):
            with pytest.raises(FolderTaken, match=message):
                train(config, tmp_path / "run", resume=resume, progress=False)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    finally:
        process.kill()
        process.join()
    assert (tmp_path / "run" / LOCK).exists()  # of a process that is gone: it locks nothing
    train(changed(config, "train", epochs=1), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / LOCK).exists()


def test_twice_in_one_process(config: Config, tmp_path: Path) -> None:
    def again() -> None:
        with pytest.raises(FolderTaken, match=rf"by process {os.getpid()} on"):
            train(config, tmp_path / "run", resume=True, progress=False)

    train(config, tmp_path / "run", progress=False, trackers=[At(again, kind="step", step=2)])
    with taken(tmp_path / "run"):
        pass


def test_a_process_that_was_started_by_the_training_does_not_hold_it(tmp_path: Path) -> None:
    """As those that read images, which live a while longer than a training that was killed."""
    with taken(tmp_path / "run"):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        process = holder(tmp_path / "run")
        process.kill()
        process.join()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_fails_leaves_no_folder(config: Config, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), taken(tmp_path / "a" / "b"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with taken(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_trainings_that_start_together_get_folders_of_their_own(pictures: Path, tmp_path: Path) -> None:
    settings = [
        "model.backbone=nearfar/small",
        "model.size=32",
        "batch.classes_per_batch=3",
        "train.epochs=1",
    ]
    seeds = (1, 2, 3)
    command = ["train", str(pictures), *settings, "--no-report"]
    assert begin_together([[*command, f"train.seed={seed}"] for seed in seeds], tmp_path) == [0, 0, 0]
    made = sorted((tmp_path / "runs").iterdir())
    assert [path.name for path in made] == [pictures.name, f"{pictures.name}-2", f"{pictures.name}-3"]
    found = {tomllib.loads((path / "config.toml").read_text())["train"]["seed"] for path in made}
    assert found == set(seeds)


def test_a_name_is_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [runs._new_folder("birds").name for _ in range(3)] == ["birds", "birds-2", "birds-3"]


def test_a_run_that_failed_at_its_first_step_takes_mended_settings(config: Config, tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("the first step")

    with pytest.raises(ValueError, match="the first step"):
        train(config, tmp_path / "run", progress=False, trackers=[At(fail, kind="start")])
    assert not (tmp_path / "run").exists()
    mended = changed(config, "train", epochs=1)
    train(mended, tmp_path / "run", progress=False)


def test_a_run_without_a_checkpoint_begins_anew_with_other_settings(config: Config, tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("the third step")

    with pytest.raises(ValueError, match="the third step"):
        train(config, tmp_path / "run", progress=False, trackers=[At(fail, kind="step", step=3)])
    mended = changed(config, "optimizer", lr=0.001)
    with pytest.raises(RunInterrupted):
        train(mended, tmp_path / "run", resume=True, progress=False, trackers=[At(interrupt, kind="step", step=2)])  # fmt: skip
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["optimizer"]["lr"] == 0.001
    train(mended, tmp_path / "run", resume=True, progress=False)
