"""The commands that take a saved model: what they accept, and what they refuse before any work."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.cli.app import run
from nearfar.models import Embedder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return Embedder("nearfar/small", size=32, dim=8).save(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for number in range(12):
        path = folder / f"class-{number % 3}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return folder


def test_evaluate_takes_a_model_without_its_run(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(model), str(photos), "--json", "--bootstrap", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["n_queries"] == 12
    assert run(["evaluate", str(model)]) == 1
    told = capsys.readouterr().err
    assert "is a model without its run, so it has no test classes; give images: nearfar evaluate" in told


def test_embed_takes_it_too(model: Path, photos: Path, tmp_path: Path) -> None:
    assert run(["embed", str(model), str(photos), "-o", str(tmp_path / "v.npz")]) == 0
    assert np.load(tmp_path / "v.npz")["embedding"].shape == (12, 8)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["v.npz"]


@pytest.mark.parametrize("place", ["folder.npz", "x" * 300 + ".npz", "file/v.npz", "/proc/v.npz"])
def test_embed_refuses_a_place_before_the_work(
    place: str,
    model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Embedder, "encode", lambda *_, **__: pytest.fail("embedded first"))
    before = sorted(tmp_path.iterdir())
    assert run(["embed", str(model), str(photos), "-o", str(tmp_path / place)]) == 1
    told = capsys.readouterr().err
    assert any(part in told for part in ("is a folder", "cannot be written", "no such folder", "too long"))
    assert told.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_embed_leaves_the_file_that_is_there(model: Path, tmp_path: Path) -> None:
    (tmp_path / "v.npz").write_text("kept")
    assert run(["embed", str(model), str(tmp_path / "none.png"), "-o", str(tmp_path / "v.npz")]) == 1
    assert (tmp_path / "v.npz").read_text() == "kept"


def test_a_damaged_model_is_told_in_one_sentence(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / "weights.safetensors").read_bytes())
    content[-9] ^= 4
    (tmp_path / "weights.safetensors").write_bytes(content)
    assert run(["embed", str(tmp_path), str(photos), "-o", str(tmp_path / "v.npz")]) == 1
    told = capsys.readouterr().err
    assert "weights.safetensors' is damaged" in told
    assert told.count("\n") == 1


def test_models_says_what_there_is_instead(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "*siglip2*"]) == 1
    assert "no backbone matches '*siglip2*'; '*siglip*' is in the names of" in capsys.readouterr().err
