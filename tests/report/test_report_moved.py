"""Pictures that moved, that are gone, or of which none can be found again: a sentence, and a way on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearfar.cli.app import run

QUICK = ["model.size=32", "train.steps=1", "batch.classes_per_batch=3", "batch.images_per_class=2",
         "train.precision=float32", "train.validate_on=none"]  # fmt: skip


def draw(folder: Path, classes: int = 8, per_class: int = 2, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for c in range(classes):
        (folder / f"c{c}").mkdir(parents=True)
        for i in range(per_class):
            Image.fromarray(random.integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(
                folder / f"c{c}" / f"{i}.png"
            )
    return folder


@pytest.fixture
def moved(tmp_path) -> Path:
    """A run whose pictures lie elsewhere now."""
    photos = draw(tmp_path / "old")
    assert run(["train", str(photos), *QUICK, "--folder", str(tmp_path / "run"), "--no-report"]) == 0
    photos.rename(tmp_path / "new")
    return tmp_path / "run"


def test_a_folder_that_moved(moved, tmp_path, capsys):
    for command in ("report", "evaluate", "mine", "compare"):
        capsys.readouterr()
        assert run([command, str(moved)]) == 1
        told = capsys.readouterr().err
        assert f"were in {tmp_path / 'old'}, which is not there now" in told
        named = "evaluate" if command == "compare" else command
        assert f"nearfar {named} {moved} data.source=PLACE" in told
        assert f"nearfar embed {moved} PATHS" in told
    where = f"data.source={tmp_path / 'new'}"
    for command in ("report", "evaluate", "mine"):
        assert run([command, str(moved), where, "--json"]) == 0
        json.loads(capsys.readouterr().out)
    assert (moved / "report.html").is_file()
    assert str(tmp_path / "new") not in (moved / "config.toml").read_text()


def test_a_table_whose_pictures_moved(tmp_path, capsys):
    photos = draw(tmp_path / "old")
    table = tmp_path / "birds.csv"
    rows = [f"{file},{file.parent.name}" for file in sorted(photos.rglob("*.png"))]
    table.write_text("\n".join(["path,label", *rows]) + "\n")
    assert run(["train", str(table), *QUICK, "--folder", str(tmp_path / "run"), "--no-report"]) == 0
    photos.rename(tmp_path / "new")
    capsys.readouterr()
    for command in ("report", "evaluate", "mine"):
        assert run([command, str(tmp_path / "run")]) == 1
        told = capsys.readouterr().err
        assert "birds.csv, row 2: no such file" in told
        assert f"nearfar {command} {tmp_path / 'run'} data.source=PLACE" in told


def test_other_pictures_than_those_of_the_run_are_noticed(moved, tmp_path, capsys):
    photos = draw(tmp_path / "other", seed=1)
    for place in sorted(photos.iterdir()):
        place.rename(photos / f"x{place.name}")
    assert run(["report", str(moved), f"data.source={photos}"]) == 0
    assert "has 0 of the 4 classes that the model of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("loss.name=triplet", "'loss.name' cannot be said anew of a finished run"),
        ("data.sourse=x", "Did you mean 'data.source'?"),
        ("data.source", "write key=value"),
        ("data.source=/nowhere/at/all", "there is no such file or folder"),
        ("data.skip_unreadable=maybe", "data.skip_unreadable must be true or false"),
    ],
)
def test_what_cannot_be_said_anew(moved, capsys, override, words):
    capsys.readouterr()
    assert run(["report", str(moved), override]) == 2
    assert words in capsys.readouterr().err


def test_one_picture_a_class(moved, tmp_path, capsys):
    draw(tmp_path / "single", per_class=1)
    capsys.readouterr()
    assert run(["evaluate", str(moved), str(tmp_path / "single")]) == 1
    told = capsys.readouterr().err
    assert "no class of single has two images, so none can be found again" in told
    assert f"nearfar embed {moved} PATHS -o vectors.npz" in told
    assert run(["report", str(moved), f"data.source={tmp_path / 'single'}"]) == 1
    assert "nearfar embed" in capsys.readouterr().err


def test_a_broken_picture_of_the_test_half(moved, tmp_path, capsys):
    for place in (tmp_path / "new").iterdir():
        (place / "broken.png").write_bytes(b"no picture")
    where = f"data.source={tmp_path / 'new'}"
    capsys.readouterr()
    assert run(["report", str(moved), where]) == 1
    assert "set data.skip_unreadable = true" in capsys.readouterr().err
    for command in ("report", "evaluate", "mine"):
        assert run([command, str(moved), where, "data.skip_unreadable=true"]) == 0
    shutil.rmtree(tmp_path / "new")
