"""An epoch on a device that is not the CPU comes to what it comes to on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nearfar.config import Config
from nearfar.train import loop, read_log, start, train
from nearfar.train.validate import Validation, validate

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "a batch by itself": {"loss": {"name": "multi_similarity", "mining": "multi_similarity"}},
    "a memory": {"loss": {"name": "contrastive"}, "memory": {"size": 20}},
    "a memory that the CPU holds": {"loss": {"name": "contrastive"}, "memory": {"size": 20, "device": "cpu"}},
    "classes": {"loss": {"name": "arcface"}},
    "two passes": {
        "loss": {"name": "supcon"},
        "model": {"backbone": "nearfar/small-group-norm"},
        "batch": {"chunk": 4},
    },
    "bfloat16": {"loss": {"name": "triplet"}, "train": {"precision": "bfloat16"}},
}
RARE = ["a memory that the CPU holds", "bfloat16"]


def trained(
    config: Config, folder: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], dict[str, Tensor], Validation]:
    """The losses of an epoch's steps, the weights after it, and its validation; nothing is saved."""
    runs: list[loop.Run] = []

    def end(run: loop.Run, command: str) -> None:
        runs.append(run)
        run.at.epoch += 1

    monkeypatch.setattr(start, "choose_device", lambda name: torch.device(device))
    monkeypatch.setattr(loop.Run, "_end_of_epoch", end)
    train(config, folder, progress=False)
    (run,) = runs
    parts, layout = run.parts, run.numerics.layout()
    assert parts.validation_images is not None
    found = validate(parts.embedder, parts.validation_images, parts.device, layout)
    state = {**parts.embedder.state_dict(), **parts.loss.state_dict()}
    assert {x.device.type for x in state.values()} == {device}
    losses = [step["loss"] for step in read_log(folder / "log.jsonl") if step["kind"] == "step"]
    return losses, {name: x.cpu() for name, x in state.items()}, found


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.exhaustive if case in RARE else ()) for case in SETTINGS]
)
def test_an_epoch(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, case: str
) -> None:
    whole, changed = config.to_dict(), SETTINGS[case]
    for name, values in {**changed, "train": {"epochs": 1, **changed.get("train", {})}}.items():
        whole[name] = {**whole[name], **values} if name != "loss" else values
    settings = Config.model_validate(whole)
    losses, weights, seen = trained(settings, tmp_path / "cpu", "cpu", monkeypatch)
    found, others, there = trained(settings, tmp_path / "device", device, monkeypatch)
    assert len(found) == len(losses)
    if case != "bfloat16":  # the device's autocast casts nothing
        assert found == pytest.approx(losses, rel=1e-4)
        torch.testing.assert_close(others, weights, rtol=1e-3, atol=1e-3)
        assert there.map_at_r == pytest.approx(seen.map_at_r)
