"""`batch.chunk` in the loop: the same run in chunks, resumable, and what a dry run says of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nearfar.config import Config
from nearfar.data import Augment
from nearfar.errors import ConfigError
from nearfar.models import Embedder
from nearfar.train import RunInterrupted, read_log, room, train
from nearfar.train.passes import Passes, probe_size
from nearfar.train.plan import shown
from stopped_runs import At, assert_same_weights, changed, interrupt


@pytest.fixture
def chunked(config: Config) -> Config:
    """Batches of 6 as 4 and 2."""
    config = changed(config, "model", backbone="nearfar/small-group-norm")
    return changed(config, "batch", chunk=4)


@pytest.mark.parametrize(
    ("loss", "memory"),
    [
        ({"name": "supcon"}, 0),
        ({"name": "margin", "mining": "distance_weighted"}, 50),
        ({"name": "proxy_anchor", "add": [{"name": "triplet", "mining": "hard"}]}, 0),
    ],
)
def test_a_run_in_chunks_is_resumed(
    chunked: Config, tmp_path: Path, loss: dict[str, Any], memory: int
) -> None:
    """Bit for bit, with all that is drawn at random switched on."""
    whole = {**chunked.to_dict(), "loss": loss, "memory": {"size": memory}}
    config = changed(Config.model_validate(whole), "augment", rotate=20.0, blur=0.5, erase=0.5, gray=0.5)
    train(config, tmp_path / "whole", progress=False)
    with pytest.raises(RunInterrupted):
        train(config, tmp_path / "run", progress=False, trackers=[At(interrupt, kind="step", step=5)])
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


def test_a_run_in_chunks_is_the_run_in_one_pass(chunked: Config, tmp_path: Path) -> None:
    """Same images, same augmentation, same losses; the clock and the last digits differ."""
    chunked = changed(changed(chunked, "optimizer", name="sgd"), "augment", erase=0.5)
    chunked = changed(chunked, "memory", size=40)
    told = []
    for name, chunk in (("one", 0), ("two", 4), ("single", 1)):
        train(changed(chunked, "batch", chunk=chunk), tmp_path / name, progress=False)
        log = read_log(tmp_path / name / "log.jsonl")
        numbers = ("loss", "gradient_norm", "memory_filled")
        told.append([r[number] for r in log if r["kind"] == "step" for number in numbers])
    assert len(told[0]) == 3 * 12
    assert told[1] == pytest.approx(told[0], rel=1e-4)
    assert told[2] == pytest.approx(told[0], rel=1e-4)


def test_no_more_than_a_chunk_is_ever_pixels(
    chunked: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    apply = Augment.apply

    def counted(self: Augment, images: Tensor, drawn: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        seen.append(len(images))
        return apply(self, images, drawn)

    monkeypatch.setattr(Augment, "apply", counted)
    train(changed(chunked, "train", steps=2), tmp_path / "run", progress=False)
    assert seen == [4, 2, 4, 2] * 2


def test_chunks_of_a_batch_are_augmented_as_the_batch() -> None:
    augment = Augment(16, rotate=30, translate=0.2, brightness=0.3, contrast=0.3, saturation=0.3, gray=0.3,
                      blur=0.5, erase=0.5)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (11, 3, 20, 20), generator=generator, dtype=torch.uint8)
    whole = augment(images, torch.Generator().manual_seed(1))
    drawn = augment.draw(11, torch.Generator().manual_seed(1))
    parts = [augment.apply(*some) for some in zip(images.split(4), drawn.split(4), strict=True)]
    assert torch.equal(torch.cat(parts), whole)


def test_batch_norm_is_refused_before_anything_is_written(config: Config, tmp_path: Path) -> None:
    config = changed(config, "batch", chunk=4)
    with pytest.raises(
        ConfigError,
        match=r"^'backbone\.stages\.0\.1' and 8 more layers normalise by .* set model\.backbone = "
        r"'nearfar/small-group-norm', or batch\.chunk = 0\.$",
    ):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    own = Embedder(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)), dim=8, size=32)
    pretrained = changed(config, "model", pretrained=True)
    with pytest.raises(ConfigError, match=r"set model\.freeze_batch_norm = true, take a backbone with layer"):
        train(pretrained, tmp_path / "run", progress=False, embedder=own)
    with pytest.raises(ConfigError, match=r"suits pretrained weights only"):
        train(changed(config, "model", pretrained=False), tmp_path / "run", progress=False, embedder=own)
    train(changed(config, "batch", chunk=6), tmp_path / "all", progress=False)  # the whole batch is one chunk
    frozen = changed(config, "model", freeze_batch_norm=True)
    train(changed(frozen, "train", epochs=1), tmp_path / "frozen", progress=False)


def test_dry_run_of_a_batch_in_chunks(
    chunked: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearfar.train.passes.free_memory", lambda device: 2**33)
    plan = train(chunked, tmp_path / "run", dry_run=True).plan
    assert plan is not None
    passes = plan.passes
    assert (passes.batch, passes.chunk, passes.proposed, passes.batch_norm) == (6, 4, 0, False)
    assert plan.memory["activations"] == 4 * passes.per_image
    assert plan.step_seconds == passes.two_passes > passes.one_pass > 0
    out = capsys.readouterr().err
    assert "batch       [6, 3, 32, 32] -> embeddings [6, 16]\n" in out
    assert "of 8.00 GB free, " in out
    assert " MB with 4 images at a time, " in out
    assert "\n            batch.chunk = 0 is faster\n" in out


PASSES = Passes(
    batch=16384, chunk=0, per_image=2**20, always=2**28, free=2**33, one_pass=12.0, second=4.0,
    proposed=1024, batch_norm=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            {},
            [
                "one pass    16.25 GB of 8.00 GB free, 12 s a step: it does not fit",
                "two passes  1.25 GB with 1,024 images at a time, 16 s a step (x 1.33)",
                "            set batch.chunk = 1024",
            ],
        ),
        ({"chunk": 256}, ["does not fit", "512.0 MB with 256 images at a time, 16 s a step (x 1.33)"]),
        ({"chunk": 8192}, ["", "8.25 GB with 8,192", "that does not fit either; set batch.chunk = 1024"]),
        ({"batch_norm": True}, ["", "", "batch.chunk = 1024 needs a backbone with layer norm"]),
        ({"free": 2**36, "proposed": 0}, ["one pass    16.25 GB of 64.00 GB free, 12 s a step: it fits"]),
        ({"free": 2**20, "proposed": None}, ["", "not even one image at a time fits; take a smaller"]),
        ({"free": None, "proposed": 0}, ["one pass    16.25 GB, 12 s a step"]),
    ],
)
def test_what_the_planner_says(change: dict[str, Any], lines: list[str]) -> None:
    told = replace(PASSES, **change).lines()
    assert len(told) == len(lines)
    for line, words in zip(told, lines, strict=True):
        assert words in line
        assert len(line) <= 150


def test_how_many_images_the_network_is_tried_with() -> None:
    assert probe_size(48, 64, 0) == 64
    assert probe_size(48, 16384, 0) == 434
    assert probe_size(48, 16384, 16) == 16
    assert probe_size(2048, 64, 0) == 2


def test_free_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(room, "MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(room, "GROUP", tmp_path)
    assert room.free_memory(cpu) is None
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  8000 kB\n")
    assert room.free_memory(cpu) == 8000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert room.free_memory(cpu) == 8000 * 1024
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000000\ninactive_file 3000000\n")
    assert room.free_memory(cpu) == 4000000
    assert room.free_memory(torch.device("meta")) is None
    assert shown(2**20) == "1.0 MB"
