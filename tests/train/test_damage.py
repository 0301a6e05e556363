"""A damaged checkpoint is noticed, whatever was damaged, and the one before it is there to go on from."""

import itertools
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nearfar.cli.app import run as command_line
from nearfar.config import Config
from nearfar.errors import CheckpointError
from nearfar.train import RunInterrupted, read_log, train
from nearfar.train.checkpoint import DamagedCheckpoint, load_checkpoint, save_checkpoint
from stopped_runs import At, assert_same_weights, changed, interrupt


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train(changed(config, "train", epochs=3), folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def stopped(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, stopped in its third epoch: checkpoints of steps 14 and 12."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    stop = At(interrupt, kind="step", step=14)
    with pytest.raises(RunInterrupted):
        train(changed(config, "train", epochs=3), folder, progress=False, trackers=[stop])
    return folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


def flip(file: Path, place: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


@pytest.mark.parametrize("part", ["last", "best"])
def test_a_flipped_bit_anywhere_is_damage(run: Path, part: str) -> None:
    file = run / part / "checkpoint.pt"
    content = bytearray(file.read_bytes())
    places = {*range(0, len(content), len(content) // 100), *range(len(content) - 40, len(content))}
    for place in places:
        content[place] ^= 1 << place % 8
        file.write_bytes(content)
        with pytest.raises(DamagedCheckpoint, match=r"checkpoint\.pt is damaged or was not written"):
            load_checkpoint(run / part)
        content[place] ^= 1 << place % 8
    file.write_bytes(content)
    assert load_checkpoint(run / part)["embedder"]


def test_zeros_cuts_and_additions_are_damage(run: Path) -> None:
    file = run / "last" / "checkpoint.pt"
    content = file.read_bytes()
    middle = len(content) // 2
    damages = [content[:size] for size in (0, 1, 7, 8, 21, 22, 100, middle, len(content) - 1)]
    damages += [content[: len(content) - size] for size in (8, 16, 17, 38)]  # the seal, or a part of it
    damages += [content[:k] + bytes(8) + content[k + 8 :] for k in (0, middle, len(content) - 8)]
    damages += [content[:k] + bytes(4096) + content[k + 4096 :] for k in (middle, len(content) - 4096)]
    damages += [content + b"\0", content + content, content[middle:] + content[:middle], bytes(len(content))]
    for damage in damages:
        file.write_bytes(damage)
        with pytest.raises(DamagedCheckpoint):
            load_checkpoint(run / "last")


def swapped(state: dict[str, Any]) -> None:
    weights = state["embedder"]
    for one, other in itertools.combinations(weights, 2):
        if weights[one].shape == weights[other].shape and not torch.equal(weights[one], weights[other]):
            weights[one], weights[other] = weights[other], weights[one]
            return
    raise AssertionError


@pytest.mark.parametrize(
    "change",
    [
        swapped,
        lambda state: next(iter(state["optimizer"]["state"].values()))["exp_avg"].mul_(1 + 2**-20),
        lambda state: state["optimizer"]["param_groups"][0].update(lr=1.0),
        lambda state: state["progress"].update(step=13),
        lambda state: state["watch"]["told"].append("drift"),
        lambda state: state["embedder"].popitem(),
        lambda state: state.pop("checksums"),
    ],
    ids=["swap", "moment", "rate", "step", "watch", "missing", "unchecked"],
)  # fmt: skip
def test_a_file_that_was_put_together_anew_is_checked_too(
    run: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """Its archive is whole, so that only the checksums by name tell."""
    file = run / "last" / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    torch.save(state, file)
    load_checkpoint(run / "last")
    change(state)
    torch.save(state, file)
    with pytest.raises(DamagedCheckpoint, match="not what was written"):
        load_checkpoint(run / "last")


def test_a_checkpoint_of_an_earlier_version_is_read_and_checked(run: Path) -> None:
    file = run / "last" / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    del state["checksums"]
    torch.save({**state, "format": 1}, file)
    assert load_checkpoint(run / "last")["progress"] == state["progress"]
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        flip(file, largest.header_offset + 30 + len(largest.filename) + 200)
    with pytest.raises(DamagedCheckpoint, match="not what was written"):
        load_checkpoint(run / "last")


def test_the_one_before_is_kept_and_leads_to_the_same_end(
    config: Config, run: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = changed(config, "train", epochs=3)
    last, previous = run / "last" / "checkpoint.pt", run / "last" / "previous.pt"
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is whole; go on from it with: .* --resume$"):
        train(config, run, resume=True, from_previous=True, progress=False)
    flip(last, 5000)
    message = (
        rf"^{last} is damaged or was not written by nearfar: .*; the one before it, {previous} of step 12, is "
        rf"whole; go on from it with: nearfar train {run} --resume --from-previous$"
    )
    for _ in range(2):
        with pytest.raises(CheckpointError, match=message):
            train(config, run, resume=True, progress=False)
    train(config, run, resume=True, from_previous=True, progress=False)
    assert_same_weights(run, whole)
    steps = [record["step"] for record in read_log(run / "log.jsonl") if record["kind"] == "step"]
    assert steps == list(range(1, 19))
    assert load_checkpoint(run / "last", "previous.pt")["progress"]["step"] == 14 - 2


def test_the_command_in_the_sentence_goes_on(
    run: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(run / "last" / "checkpoint.pt", 777, 5)
    assert command_line(["train", str(run), "--resume", "--no-report"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "damaged" in told
    words = told.split("go on from it with: nearfar ")[1].split()
    assert command_line([*words, "--no-report"]) == 0
    assert_same_weights(run, whole)


def test_both_damaged_or_one_gone(config: Config, run: Path) -> None:
    config = changed(config, "train", epochs=3)
    last, previous = run / "last" / "checkpoint.pt", run / "last" / "previous.pt"
    last.unlink()
    with pytest.raises(CheckpointError, match=r"it is gone; the one before it, .* --from-previous$"):
        train(config, run, resume=True, progress=False)
    previous.write_bytes(b"")
    last.write_bytes(b"")
    for again in (False, True):
        with pytest.raises(CheckpointError, match="is damaged") as caught:
            train(config, run, resume=True, from_previous=again, progress=False)
        assert again or f"previous.pt is damaged too; begin the run anew in another folder with: nearfar train {run}" in str(caught.value)  # fmt: skip
    previous.unlink()
    with pytest.raises(CheckpointError, match="there is none before it; begin the run anew in another"):
        train(config, run, resume=True, progress=False)
    assert last.exists()
    shutil.copy(run / "best" / "checkpoint.pt", last)
    with pytest.raises(CheckpointError, match="it is a model without the state of a run"):
        train(config, run, resume=True, progress=False)


@pytest.mark.parametrize("name", ["best/checkpoint.pt", "model/weights.safetensors"])
def test_a_damaged_best_epoch_is_told_and_training_goes_on(
    config: Config, run: Path, whole: Path, name: str
) -> None:
    flip(run / name, 6)
    train(changed(config, "train", epochs=3), run, resume=True, progress=False)
    told = [record["text"] for record in read_log(run / "log.jsonl") if record["kind"] == "warning"]
    assert any("damaged" in text and str(run / name) in text for text in told)
    assert_same_weights(run, whole)


def test_a_full_device_keeps_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(3):
        save_checkpoint(tmp_path, {"progress": {"step": step}}, keep=True)
    (tmp_path / "checkpoint.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="no space left"):
        save_checkpoint(tmp_path, {"progress": {"step": 3}}, keep=True)
    found = [load_checkpoint(tmp_path, name)["progress"]["step"] for name in ("checkpoint.pt", "previous.pt")]
    assert found == [2, 1]
