"""A run on a device that is not the CPU comes to what it comes to on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nearfar.config import Config
from nearfar.models import Embedder
from nearfar.train import read_log, start, train

SETTINGS: dict[str, list[str]] = {
    "a batch by itself": ["loss.name=multi_similarity", "loss.mining=multi_similarity"],
    "a memory": ["loss.name=contrastive", "memory.size=20"],
    "a memory that the CPU holds": ["loss.name=contrastive", "memory.size=20", "memory.device=cpu"],
    "classes": ["loss.name=arcface"],
    "two passes": ["loss.name=supcon", "model.backbone=nearfar/small-group-norm", "batch.chunk=4"],
    "bfloat16": ["loss.name=triplet", "train.precision=bfloat16"],
}


def trained(config: Config, folder: Path, **more: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses of a run's steps, and the weights that it leaves."""
    result = train(config, folder, progress=False, **more)
    steps = [step["loss"] for step in read_log(folder / "log.jsonl") if step["kind"] == "step"]
    return steps, Embedder.load(result.folder / "model").state_dict()


@pytest.mark.parametrize("case", SETTINGS)
def test_a_run(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, case: str
) -> None:
    from conftest import SMALL

    config = Config.load(str(pictures), [*SMALL, *SETTINGS[case]])
    losses, weights = trained(config, tmp_path / "cpu")
    monkeypatch.setattr(start, "choose_device", lambda name: torch.device(device))
    found, others = trained(config, tmp_path / "device")
    if case != "bfloat16":  # the device's autocast casts nothing
        assert found == pytest.approx(losses, rel=1e-4)
        torch.testing.assert_close(others, weights, rtol=1e-3, atol=1e-5)
