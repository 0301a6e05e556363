"""A run that is killed and resumed gives, bit for bit, the weights of one that was not."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import killed_runs
from nearfar.config import Config
from nearfar.errors import CheckpointError
from nearfar.models import Embedder
from nearfar.report import gather, write_report
from nearfar.train import RunInterrupted, read_log, train
from nearfar.train.folder import _compare
from stopped_runs import At, assert_same_weights, changed, interrupt, weights
from turns import in_turns


def test_killed_runs_end_as_the_whole_one(pictures: Path, tmp_path: Path) -> None:
    found = killed_runs.run(str(pictures), tmp_path)
    whole = found.pop("whole")
    assert len(found) == 6
    for name, run in found.items():
        assert run == whole, name


def test_two_and_two_epochs_are_four(config: Config, tmp_path: Path) -> None:
    config = changed(config, "train", epochs=4)
    train(config, tmp_path / "four", progress=False)
    with pytest.raises(
        RunInterrupted, match=r"stopped after step 12 of 24, .* go on with: nearfar train .* --resume"
    ) as stopped:
        train(config, tmp_path / "two", progress=False, trackers=[At(interrupt, kind="validation", epoch=1)])
    assert str(tmp_path / "two" / "last") in str(stopped.value)
    train(config, tmp_path / "two", resume=True, progress=False)
    assert_same_weights(tmp_path / "two", tmp_path / "four")


@pytest.mark.parametrize(
    "optimizer",
    [
        {"schedule": "poly", "power": 0.5},
        {"schedule": "multistep", "step_values": [4, 9], "name": "sgd", "warmup_epochs": 0.0},
    ],
)
def test_a_run_of_so_many_steps_is_resumed(config: Config, tmp_path: Path, optimizer: dict[str, Any]) -> None:
    config = changed(changed(config, "train", steps=10), "optimizer", **optimizer)
    train(config, tmp_path / "whole", progress=False)
    for step in (5, 8):
        with pytest.raises(RunInterrupted, match=f"stopped after step {step} of 10"):
            train(
                config,
                tmp_path / "run",
                resume=step > 5,
                progress=False,
                trackers=[At(interrupt, kind="step", step=step)],
            )
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(CheckpointError, match=r"was begun with train\.steps = 10 but now it is 20;"):
        train(changed(config, "train", steps=20), tmp_path / "run", resume=True, progress=False)


def test_proxies_of_a_loss_are_trained_and_resumed(config: Config, tmp_path: Path) -> None:
    """Their labels are whatever numbers the training classes have in the table."""
    whole = {**config.to_dict(), "loss": {"name": "normalized_softmax"}}
    config = changed(Config.model_validate(whole), "train", epochs=2)
    # The trial that chooses a precision shows the loss no label that it does not know.
    train(changed(config, "train", steps=1, precision="auto"), tmp_path / "trial", progress=False)
    train(config, tmp_path / "whole", progress=False)
    with pytest.raises(RunInterrupted):
        train(config, tmp_path / "run", progress=False, trackers=[At(interrupt, kind="step", step=5)])
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    assert weights(tmp_path / "run")["proxies"].shape[1] == config.model.dim


@in_turns(2, sampler=["hard_classes", "offline"], workers=[0, 2])
def test_a_sampler_that_follows_the_training_is_resumed(
    config: Config, tmp_path: Path, sampler: str, workers: int
) -> None:
    """What it learned and, with workers, what they were already reading are part of the checkpoint."""
    config = changed(changed(config, "train", epochs=3), "batch", sampler=sampler)
    config = changed(config, "offline", every=3)
    config = changed(config, "data", workers=workers, memory_limit="0B" if workers else "1GiB")
    train(config, tmp_path / "whole", progress=False)
    with pytest.raises(RunInterrupted):
        train(config, tmp_path / "run", progress=False, trackers=[At(interrupt, kind="step", step=8)])
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    told = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    mined = [line["step"] for line in told if line["kind"] == "mining"]
    assert mined == (list(range(3, told[-1]["step"], 3)) if sampler == "offline" else [])
    dealt = changed(config, "batch", sampler="pk")
    train(dealt, tmp_path / "dealt", progress=False)
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "dealt", tmp_path / "whole")


@pytest.mark.parametrize(
    ("loss", "memory"),
    [
        ({"name": "supcon"}, {"size": 50, "start_after": 2}),
        (
            {"name": "contrastive", "add": [{"name": "proxy_anchor", "weight": 0.1}]},
            {"size": 30, "combine": "sum", "dtype": "float16"},
        ),
        (
            {"name": "proxy_anchor", "add": [{"name": "triplet", "mining": "hard", "weight": 0.5}]},
            {"size": 1000},
        ),
    ],
)
def test_a_memory_is_resumed_where_it_was(
    config: Config, tmp_path: Path, loss: dict[str, Any], memory: dict[str, Any]
) -> None:
    """Filled, half filled, and around its end."""
    whole = {**config.to_dict(), "loss": loss, "memory": memory}
    config = Config.model_validate(whole)
    train(config, tmp_path / "whole", progress=False)
    stops = {step: [At(interrupt, kind="step", step=step)] for step in (4, 9)}
    for step, trackers in stops.items():
        with pytest.raises(RunInterrupted):
            train(config, tmp_path / "run", resume=step > 4, progress=False, trackers=trackers)
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    told = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    last = [line for line in told if line["kind"] == "step"][-1]
    assert last["memory_filled"] > 0
    assert 0 < last["memory_drift"] <= 1.001
    assert 0 < last["gradient_from_memory"] <= 1
    assert 0 < last["pairs_from_memory"] <= 1
    assert last["active_in_memory"] > 0
    if "add" in loss:
        added = loss["add"][0]
        expected = last[f"loss_{loss['name']}"] + added["weight"] * last[f"loss_{added['name']}"]
        assert last["loss"] == pytest.approx(expected, rel=1e-6)
        assert 0 < last["proxy_spread"] <= 1.001
    without = Config.model_validate({**config.to_dict(), "memory": {"size": 0}})
    train(without, tmp_path / "without", progress=False)
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "without", tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_an_epoch_loses_nothing(config: Config, tmp_path: Path, number: int) -> None:
    stop = At(lambda: os.kill(os.getpid(), number), kind="step", step=4)
    train(config, tmp_path / "whole", progress=False)
    before = signal.getsignal(number)
    with pytest.raises(RunInterrupted, match="stopped after step 4 of 12"):
        train(config, tmp_path / "run", progress=False, trackers=[stop])
    assert signal.getsignal(number) is before
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    steps = [
        record["step"] for record in read_log(tmp_path / "run" / "log.jsonl") if record["kind"] == "step"
    ]
    assert steps == list(range(1, 13))


def test_a_second_ctrl_c_stops_at_once(config: Config, tmp_path: Path) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=False, trackers=[At(twice, kind="step", step=2)])


def test_no_space_left_keeps_the_last_checkpoint(config: Config, tmp_path: Path) -> None:
    train(config, tmp_path / "whole", progress=False)
    last = tmp_path / "run" / "last"
    temporary = last / "checkpoint.pt.tmp"
    seen = []

    def fill() -> None:
        seen.append((last / "checkpoint.pt").read_bytes())
        temporary.symlink_to("/dev/full")  # the kernel answers every write with ENOSPC

    with pytest.raises(CheckpointError, match=r"^no space left on the device of .*last; .* --resume\.$"):
        train(config, tmp_path / "run", progress=False, trackers=[At(fill, kind="step", step=12)])
    assert (last / "checkpoint.pt").read_bytes() == seen[0]
    assert not temporary.is_symlink()
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


def test_no_space_for_the_log(config: Config, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="no space left on the device"):
        train(config, tmp_path / "run", resume=True, progress=False)


def test_finished_run_says_so(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(config, tmp_path / "run", progress=False)
    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    again = train(config, tmp_path / "run", resume=True)
    assert "is finished: all 2 epochs are done." in capsys.readouterr().err
    assert again == first
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == log


def test_resume_refuses_what_does_not_fit(config: Config, pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(
        CheckpointError, match=r"run holds no run to resume; leave --resume out to begin one\."
    ):
        train(config, run, resume=True, progress=False)
    with pytest.raises(RunInterrupted):
        train(config, run, progress=False, trackers=[At(interrupt, kind="step", step=2)])
    with pytest.raises(
        CheckpointError, match=r"already holds a run; go on with: nearfar train .*run --resume or choose"
    ):
        train(config, run, progress=False)
    other = changed(config, "optimizer", lr=0.5)
    with pytest.raises(
        CheckpointError, match=r"was begun with optimizer\.lr = 0\.003 but now it is 0\.5; resume"
    ):
        train(other, run, resume=True, progress=False)
    other = changed(config, "loss", beta=3.0)
    with pytest.raises(CheckpointError, match=r"loss\.beta = not set but now it is 3\.0;"):
        train(other, run, resume=True, progress=False)
    embedder = Embedder("nearfar/small", pretrained=False, dim=8, size=32)
    with pytest.raises(CheckpointError, match=r"head.*was saved from another model"):
        train(config, run, resume=True, progress=False, embedder=embedder)
    train(changed(config, "data", workers=1), run, resume=True, progress=False)  # decides nothing


def test_resume_refuses_other_images(config: Config, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        train(config, tmp_path / "run", progress=False, trackers=[At(interrupt, kind="step", step=2)])
    state = torch.load(tmp_path / "run" / "last" / "checkpoint.pt", weights_only=True)
    torch.save({**state, "data": "0"}, tmp_path / "run" / "last" / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"the training images of .* are not those that"):
        train(config, tmp_path / "run", resume=True, progress=False)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_one_sentence(config: Config, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "checkpoint.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged or was not written by nearfar"):
        train(config, tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("kept", [0, 0.4, 0.9999])
def test_a_cut_log_is_told_and_reported(config: Config, tmp_path: Path, kept: float) -> None:
    with pytest.raises(RunInterrupted):
        train(config, tmp_path / "run", progress=False, trackers=[At(interrupt, kind="step", step=8)])
    file = tmp_path / "run" / "log.jsonl"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    train(config, tmp_path / "run", resume=True, progress=False)
    told = [json.loads(line) for line in file.read_text().splitlines()]
    assert any(line["kind"] == "warning" and "log.jsonl was cut" in line["text"] for line in told)
    write_report(gather(tmp_path / "run"), tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert kept == 0 or result["run"]["precision"] == "float32"


def test_a_setting_that_came_later_had_its_default(config: Config, tmp_path: Path) -> None:
    before = config.to_dict()
    for section, key in (("data", "classes"), ("data", "unlabelled"), ("model", "fit")):
        before[section].pop(key, None)
    _compare(tmp_path, before, config)
    with pytest.raises(CheckpointError, match=r"begun with data\.classes = 'top' but now it is 'leaf'"):
        _compare(tmp_path, before, changed(config, "data", classes="leaf"))
