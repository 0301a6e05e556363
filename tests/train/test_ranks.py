"""Several processes train as one: the same weights, the same validation, one message when one of them fails."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import killed_rank
import training_ranks
from nearfar.config import Config
from nearfar.distributed import joined, launch, restarted
from nearfar.errors import ConfigError
from nearfar.train import RunInterrupted, read_log, train
from nearfar.train.checkpoint import load_checkpoint
from nearfar.train.ranks import check_batch
from stopped_runs import At, assert_same_weights, changed, interrupt

pytestmark = pytest.mark.slow

STEPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "proxies, and a second loss": {
        "loss": {"name": "proxy_anchor", "add": [{"name": "triplet", "weight": 0.1}]}
    },
    "classes shared out, and a second loss": {
        "loss": {
            "name": "sub_center_arcface",
            "sharded": True,
            "add": [{"name": "proxy_anchor", "weight": 0.1}],
        },
        "optimizer": {"clip_norm": 1.0},
    },
    "memory that wraps around": {"memory": {"size": 20}},
    "memory shared out": {"memory": {"size": 20, "sharded": True}},
    "lengths, in chunks, with a memory": {
        "loss": {"name": "npair", "similarity": "dot", "add": [{"name": "l2_norm", "weight": 0.05}]},
        "memory": {"size": 20},
        "batch": {"chunk": 2},
    },
    "negatives drawn at random": {"loss": {"name": "margin", "mining": "distance_weighted"}},
    "a sampler that learns": {"batch": {"sampler": "hard_classes"}},
    "mining now and then": {"batch": {"sampler": "offline"}, "offline": {"every": 5}},
    "chunks, and the head first": {"batch": {"chunk": 2}, "optimizer": {"head_only_epochs": 1}},
    "read by workers": {"data": {"memory_limit": 0, "workers": 1}},
}


def with_settings(config: Config, settings: dict[str, dict[str, Any]]) -> Config:
    for section, values in settings.items():
        config = changed(config, section, **values)
    return config


def assert_near(one: Path, other: Path) -> None:
    """Whether the weights of two runs are equal but for rounding."""
    a, b = (load_checkpoint(run / "last") for run in (one, other))
    for part in ("embedder", "loss"):
        assert a[part].keys() == b[part].keys()
        for key, value in a[part].items():
            torch.testing.assert_close(value, b[part][key], atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def of_nine(config: Config) -> Config:
    """Batches of 9 images, which two processes cannot share evenly; no batch norm, no dropout."""
    settings = {
        "model": {"backbone": "nearfar/small-group-norm"},
        "batch": {"images_per_class": 3},
        "optimizer": {"name": "sgd"},
        "augment": {"rotate": 20.0, "erase": 0.5},
    }
    return with_settings(config, settings)


@pytest.fixture(scope="module")
def two(of_nine: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything that two processes are asked to do, by name: what came of it on each."""
    folder = tmp_path_factory.mktemp("two")
    wrapped = with_settings(of_nine, {"memory": {"size": 20}})
    sharded = with_settings(of_nine, STEPS["memory shared out"])
    for name in ("1 to 2", "1 to 2, shared out"):
        with pytest.raises(RunInterrupted):
            train(wrapped, folder / name, progress=False, trackers=[At(interrupt, kind="step", step=5)])
    spoiled = {"timeout": 60, "config": of_nine}
    cases: dict[str, training_ranks.Case] = {
        name: ("train", {"config": with_settings(of_nine, settings), "folder": folder / name})
        for name, settings in STEPS.items()
    }
    cases |= {
        "1 to 2": ("train", {"config": wrapped, "folder": folder / "1 to 2", "resume": True}),
        "stopped": ("train", {"config": wrapped, "folder": folder / "stopped", "stop_at": (1, 5)}),
        "1 to 2, shared out": (
            "train",
            {"config": sharded, "folder": folder / "1 to 2, shared out", "resume": True},
        ),
        "stopped, shared out": (
            "train",
            {"config": sharded, "folder": folder / "stopped, shared out", "stop_at": (0, 5)},
        ),
        "finished": ("train", {"config": of_nine, "folder": folder / "plain", "resume": True}),
        "not empty": ("train", {"config": of_nine, "folder": folder / "plain"}),
        "dry run": ("dry_run", {"config": of_nine, "folder": folder / "dry"}),
        "validation": ("validate", {"config": of_nine, "batch": 5}),
        "shared": ("share", {"twice": False}),
        "shared twice": ("share", {"twice": True}),
        "statistics": ("statistics", {}),
        "batch norm": (
            "train",
            {"config": changed(of_nine, "model", backbone="nearfar/small"), "folder": folder / "bn"},
        ),
        # The one with a short timeout is first, when both have just left a group together.
        "hangs": ("spoil", {**spoiled, "folder": folder / "hangs", "how": "sleep", "at": 3, "timeout": 4}),
        "nan": ("spoil", {**spoiled, "folder": folder / "nan", "how": "nan", "at": 3}),
        "fails": ("spoil", {**spoiled, "folder": folder / "fails", "how": "fail", "at": 3}),
    }
    found = training_ranks.run(2, list(cases.values()))
    return {"folder": folder, **{name: [found[0][k], found[1][k]] for k, name in enumerate(cases)}}


@pytest.fixture(scope="module")
def one(of_nine: Config, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """What one process makes of the steps of a name: its folder, and what its training returned."""

    @cache
    def trained(name: str) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp("one") / "run"
        return folder, train(with_settings(of_nine, STEPS[name]), folder, progress=False)

    return trained


@pytest.mark.parametrize("name", STEPS)
def test_two_processes_train_as_one(one: Any, two: dict[str, Any], name: str) -> None:
    """The weights differ by the rounding of sums that are taken in another order, some 1e-7 a step."""
    folder, alone = one(name)
    assert two[name] == 2 * [{"best_epoch": alone.best_epoch, "validation": alone.validation}]
    assert_near(two["folder"] / name, folder)


@pytest.mark.parametrize(
    "name", ["memory that wraps around", "memory shared out", "lengths, in chunks, with a memory"]
)
def test_two_processes_tell_what_one_tells_of_its_memory(one: Any, two: dict[str, Any], name: str) -> None:
    """Active pairs are those of the whole batch with the whole memory."""
    told = []
    for run in (one(name)[0], two["folder"] / name):
        log = [record for record in read_log(run / "log.jsonl") if record["kind"] == "step"]
        keys = ("active_in_batch", "active_in_memory", "pairs_from_memory", "gradient_from_memory")
        told.append([record[key] for record in log[1:] for key in keys])
    assert told[1] == pytest.approx(told[0], rel=1e-3)


def test_one_of_them_writes(two: dict[str, Any]) -> None:
    log = read_log(two["folder"] / "plain" / "log.jsonl")
    steps = [record["step"] for record in log if record["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert [record["kind"] for record in log].count("start") == 1
    assert log[0]["ranks"] == 2
    assert two["finished"] == two["plain"]


def test_a_run_goes_on_with_another_number_of_processes(
    of_nine: Config, one: Any, two: dict[str, Any]
) -> None:
    """From 1 to 2 and from 2 to 1, with a memory that has wrapped around: 20 slots, 9 images a batch.

    Whether ranks share it out may change on the way.
    """
    config = with_settings(of_nine, {"memory": {"size": 20}})
    whole, _ = one("memory that wraps around")
    stopped = ("stopped", "stopped, shared out")
    for name in stopped:
        train(config, two["folder"] / name, resume=True, progress=False)
    for name in ("1 to 2", "1 to 2, shared out", *stopped):
        assert_near(two["folder"] / name, whole)
        state, other = (load_checkpoint(run / "last") for run in (two["folder"] / name, whole))
        assert state["progress"]["step"] == other["progress"]["step"]
        assert str(state["sampler"]) == str(other["sampler"])
        assert state["memory"].keys() == other["memory"].keys()
        for key, value in state["memory"].items():
            torch.testing.assert_close(value, other["memory"][key], atol=1e-5, rtol=1e-5)
    warnings = [r["text"] for r in read_log(two["folder"] / "1 to 2" / "log.jsonl") if r["kind"] == "warning"]
    assert any("ranks was 1 and is 2" in text for text in warnings)


def test_one_signal_stops_all_with_one_checkpoint(two: dict[str, Any]) -> None:
    first, second = two["stopped"]
    assert first["error"] == second["error"] == "RunInterrupted"
    assert first["says"] == second["says"]
    assert "stopped after step 6 of" in first["says"]


def test_an_error_of_the_first_is_that_of_all(two: dict[str, Any]) -> None:
    for found in two["not empty"]:
        assert found["error"] == "CheckpointError"
        assert "already holds a run" in found["says"]
    for found in two["dry run"]:
        assert "start it without torchrun" in found["says"]


def test_validation_is_that_of_one_process(of_nine: Config, two: dict[str, Any]) -> None:
    """To the last bit, each process having embedded some batches and searched for some queries."""
    alone = training_ranks.CASES["validate"](of_nine, 5)
    for found in two["validation"]:
        assert (found["embeddings"] == alone["embeddings"]).all()
        assert (found["labels"] == alone["labels"]).all()
        assert found["found"] == alone["found"]


def test_a_batch_is_shared_without_a_row_twice(two: dict[str, Any]) -> None:
    alone = training_ranks.CASES["share"](False)
    for batch, *parts in zip(alone, *two["shared"], strict=True):
        assert [len(part) for part in parts] == [4, 5]
        assert parts[0] + parts[1] == batch


def test_a_loader_that_is_shared_out_twice_is_found(two: dict[str, Any]) -> None:
    for found in two["shared twice"]:
        assert "the loader was shared out twice" in found["says"]


def test_what_ranks_keep_apart_becomes_one(two: dict[str, Any]) -> None:
    for mean, both, one, none in two["statistics"]:
        assert mean.tolist() == [0.5, 0.5]
        assert both.tolist() == [1.5, 1.5]
        assert one.tolist() == [0.5, 0.5]
        assert none is None


def test_batch_norm_is_told_of(two: dict[str, Any]) -> None:
    assert two["batch norm"][0] == two["batch norm"][1]
    log = read_log(two["folder"] / "bn" / "log.jsonl")
    assert any("normalise by the rows of one process" in r.get("text", "") for r in log)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nan", "is not finite at step"),
        ("fails", "there is no memory left for this test"),
        ("hangs", "another process did not come within 4 seconds"),
    ],
)
def test_a_failure_is_told_once(two: dict[str, Any], name: str, words: str) -> None:
    told = [sentence for found in two[name] for sentence in found["told"]]
    assert len(told) == 1
    assert words in told[0]
    for found in two[name]:
        assert found["error"] == "Told"
        assert found["seconds"] < 60


def test_more_processes_than_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfar.train.ranks.world_size", lambda: 8)
    with pytest.raises(ConfigError, match="leaves some of 8 processes without any"):
        check_batch(3, 2)
    check_batch(4, 2)


def test_alone_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined():
        assert not torch.distributed.is_initialized()
    assert not restarted()
    assert launch.local_world_size() == 1


def by_torchrun(arguments: list[str], told: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [f"--max-restarts={killed_rank.RESTARTS}", killed_rank.__file__, *arguments]
    paths = os.pathsep.join([str(Path(killed_rank.__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "PYTHONPATH": paths}
    with told.open("w") as file:
        subprocess.run(command, check=True, stderr=file, env={**os.environ, **environment}, timeout=180)


@pytest.mark.parametrize(
    "by", [killed_rank.by_agent, pytest.param(by_torchrun, marks=pytest.mark.exhaustive)]
)
def test_a_killed_process_costs_the_open_step(
    of_nine: Config, two: dict[str, Any], tmp_path: Path, by: Callable[[list[str], Path], None]
) -> None:
    """torchrun starts both again, and the end is that of a run that nobody disturbed, bit for bit.

    Rank 1 dies in step 4, and then rank 0 while it writes the checkpoint of step 6: that of step 5 stays.
    """
    config = changed(of_nine, "train", checkpoint_minutes=1e-9)
    (tmp_path / "config.toml").write_text(config.to_toml())
    command = ["train", str(tmp_path / "config.toml"), "--folder", str(tmp_path / "run"), "--no-report"]
    by(command, tmp_path / "told")
    said = (tmp_path / "told").read_text()
    told = [line for line in said.splitlines() if line.startswith("nearfar:")]
    assert len(told) == 2, said
    assert all("the connection to another process is lost" in line for line in told), said
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert [record["step"] for record in log if record["kind"] == "resume"] == [3, 5]
    assert_same_weights(tmp_path / "run", two["folder"] / "plain")
