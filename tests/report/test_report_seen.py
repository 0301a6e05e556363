"""What is said of the test pictures follows from what training saw: in the report, the log, evaluate, compare."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearfar.cli.app import run

QUICK = ["model.size=32", "train.steps=2", "batch.classes_per_batch=4", "batch.images_per_class=2",
         "train.precision=float32"]  # fmt: skip
PARTS = {
    "unseen": {"train": range(8), "val": range(8, 12), "test": range(12, 16)},
    "seen": {"train": range(8), "val": range(8), "test": range(8)},
    "some": {"train": range(8), "val": range(6, 10), "test": range(5, 11)},
}


def draw(folder: Path, classes: range, seed: int) -> None:
    random = np.random.default_rng(seed)
    for c in classes:
        (folder / f"c{c}").mkdir(parents=True)
        colour = np.random.default_rng(c).integers(0, 200, 3)
        for i in range(2):
            pixels = np.clip(colour + random.integers(0, 56, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"c{c}" / f"{i}.png")


@pytest.fixture(scope="module", params=list(PARTS))
def trained(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    for seed, (part, classes) in enumerate(PARTS[request.param].items()):
        draw(place / "photos" / part, classes, seed)
    folder = place / "run"
    assert run(["train", str(place / "photos"), *QUICK, "--folder", str(folder)]) == 0
    return request.param, folder, place / "photos"


def counts(kind: str, part: str) -> tuple[int, int]:
    train, tested = set(PARTS[kind]["train"]), set(PARTS[kind][part])
    return len(tested), len(train & tested)


def test_the_report(trained):
    kind, folder, _ = trained
    result = json.loads((folder / "result.json").read_text())
    classes, seen = counts(kind, "test")
    assert result["data"]["training_saw"]["kind"] == kind
    assert (result["data"]["training_saw"]["classes"], result["data"]["training_saw"]["seen"]) == (
        classes,
        seen,
    )
    assert result["data"]["classes_are_new"] == (kind == "unseen")
    page = (folder / "report.html").read_text(encoding="utf-8")
    wanted = {
        "unseen": "pictures of classes never seen in training",
        "seen": "pictures not used in training, of classes that training saw",
        "some": "pictures not used in training, of 6 classes of which training saw 3",
    }
    assert wanted[kind] in result["sentence"]
    for other, words in wanted.items():
        assert (words in page) == (other == kind)
    assert ("never seen in training" in page) == (kind == "unseen")
    assert ("on classes not learned from" in page) == (kind == "unseen")
    assert ("validation, on the classes learned from" in page) == (kind == "seen")
    assert ("validation, 2 of 4 classes learned from" in page) == (kind == "some")


def test_the_log(trained):
    kind, folder, _ = trained
    start = json.loads((folder / "log.jsonl").read_text().split("\n")[0])
    for part, name in (("test", "test"), ("val", "validation")):
        told = start["training_saw"][name]
        assert told["kind"] == kind
        assert (told["classes"], told["seen"]) == counts(kind, part)


def test_evaluate(trained, capsys):
    kind, folder, photos = trained
    capsys.readouterr()
    assert run(["evaluate", str(folder), "--bootstrap", "0"]) == 0
    told = capsys.readouterr().out
    assert {"unseen": "saw none of these 4", "seen": "saw all of these 8", "some": "saw 3 of these 6"}[
        kind
    ] in told
    assert "themselves" not in told
    assert run(["evaluate", str(folder), str(photos / "train"), "--bootstrap", "0"]) == 0
    told = capsys.readouterr().out
    assert "saw all of these 8 classes" in told
    assert "learned from all of these 16 images themselves" in told
    assert run(["evaluate", str(folder), str(photos / "train"), "--bootstrap", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["training_saw"]
    assert told == {"kind": "seen", "classes": 8, "seen": 8, "images": 16, "images_learned_from": 16}


def test_compare(trained, capsys):
    kind, folder, _ = trained
    words = {"unseen": "saw none of these 4", "seen": "saw all of these 8", "some": "saw 3 of these 6"}[kind]
    capsys.readouterr()
    for step in ("by its report", "tested", "by its test"):
        assert run(["compare", str(folder)]) == 0
        assert words in capsys.readouterr().out, step
        (folder / "result.json").unlink(missing_ok=True)
    assert run(["compare", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"][0]["runs"][0]["training_saw"]["kind"] == kind


def test_a_model_that_names_no_classes(trained, tmp_path, capsys):
    _, folder, photos = trained
    shutil.copytree(folder, tmp_path / "run")
    description = tmp_path / "run" / "model" / "model.toml"
    lines = [
        "classes = []" if line.startswith("classes") else line for line in description.read_text().split("\n")
    ]
    description.write_text("\n".join(lines))
    capsys.readouterr()
    assert run(["evaluate", str(tmp_path / "run"), str(photos / "test"), "--bootstrap", "0"]) == 0
    assert "is not known." in capsys.readouterr().out
