"""The command line as a person meets it: what works prints what they asked, what fails says why in one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearfar.cli.app import run

QUICK = [
    "model.size=32",
    "train.epochs=2",
    "batch.classes_per_batch=4",
    "batch.images_per_class=2",
    "train.precision=float32",
]


def draw(folder: Path, classes: int, per_class: int, seed: int = 0) -> Path:
    """Write a folder of class folders: each class its own colour and stripe."""
    rng = np.random.default_rng(seed)
    for c in range(classes):
        colour = rng.integers(0, 200, 3)
        for i in range(per_class):
            pixels = np.clip(colour + rng.integers(0, 56, (40, 40, 3)), 0, 255).astype(np.uint8)
            pixels[:: c + 2] = 255 - pixels[:: c + 2]
            (folder / f"class-{c}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"class-{c}" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("photos"), classes=12, per_class=4)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory) -> Path:
    """The folder of a short run, with its report."""
    folder = tmp_path_factory.mktemp("runs") / "photos"
    assert run(["train", str(photos), *QUICK, "--folder", str(folder)]) == 0
    return folder


def fails(capsys, arguments: list[str], status: int, *words: str) -> None:
    """The command exits with ``status`` and says one sentence with these words, and nothing like a traceback."""
    capsys.readouterr()
    assert run(arguments) == status
    shown = capsys.readouterr().err
    said = shown[shown.index("nearfar: ") :]
    assert said.count("nearfar: ") == 1, said
    for word in words:
        assert word in said
    assert "Traceback" not in shown
    assert "should not happen" not in said


def test_help_is_quick_and_needs_no_torch():
    code = "import sys; from nearfar.cli.app import run; run(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_module_and_command_are_the_same(capsys):
    shown = subprocess.run(
        [sys.executable, "-m", "nearfar", "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("nearfar ")


def test_a_run_has_its_files(trained):
    for name in [
        "config.toml",
        "log.jsonl",
        "last",
        "best",
        "model/weights.safetensors",
        "report.html",
        "report.png",
        "result.json",
    ]:
        assert (trained / name).exists(), name


def test_evaluate(trained, photos, capsys):
    assert run(["evaluate", str(trained)]) == 0
    assert "each searches all others" in capsys.readouterr().out
    assert run(["evaluate", str(trained), str(photos), "--json", "--bootstrap", "0"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 <= result["recall_at_k"]["1"] <= 1


def test_evaluate_agrees_with_the_report(trained, capsys):
    assert run(["evaluate", str(trained), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    report = json.loads((trained / "result.json").read_text())
    assert report["results"]["after"]["recall_at_k"]["1"] == pytest.approx(result["recall_at_k"]["1"])


def test_report_against_another_run(trained, capsys):
    assert run(["report", str(trained), "--against", str(trained)]) == 0
    assert "The report:" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_embed(trained, photos, tmp_path, capsys, suffix):
    output = tmp_path / f"vectors{suffix}"
    assert (
        run(
            [
                "embed",
                str(trained),
                str(photos / "class-0"),
                str(photos / "class-1" / "0.png"),
                "-o",
                str(output),
            ]
        )
        == 0
    )
    if suffix == ".npz":
        z = np.load(output, allow_pickle=False)
        paths, vectors = z["path"].tolist(), z["embedding"]
    else:
        import pyarrow.parquet as pq

        rows = pq.read_table(output)
        paths, vectors = rows["path"].to_pylist(), np.array(rows["embedding"].to_pylist(), dtype=np.float32)
    assert [Path(p).name for p in paths] == ["0.png", "1.png", "2.png", "3.png", "0.png"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_dry_run_writes_nothing(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["train", str(photos), *QUICK, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "memory" in shown
    assert "weights" in shown
    assert list(tmp_path.iterdir()) == []


def test_resume_keeps_the_settings_of_the_run(photos, tmp_path, monkeypatch, capsys):
    """`train photos loss.name=triplet`, killed, then `train photos --resume` goes on with triplet."""
    monkeypatch.chdir(tmp_path)
    settings = [*QUICK, "loss.name=triplet", "loss.mining=semi_hard"]
    assert run(["train", str(photos), *settings, "--no-report"]) == 0
    capsys.readouterr()
    assert run(["train", str(photos), "--resume", "--no-report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == f"runs/{photos.name}"


def test_evaluate_by_query_and_gallery(trained, tmp_path, capsys):
    """With these roles a query searches the gallery alone."""
    for part in ("query", "gallery"):
        draw(tmp_path / "set" / part, classes=5, per_class=2, seed=3)
    assert run(["evaluate", str(trained), str(tmp_path / "set"), "--bootstrap", "0"]) == 0
    assert "10 queries search a gallery of 10 images" in capsys.readouterr().out


def test_resume_of_a_finished_run_says_so(trained, capsys):
    assert run(["train", str(trained), "--resume", "--no-report"]) == 0
    assert "finished" in capsys.readouterr().err


def test_lists(capsys):
    assert run(["losses"]) == 0
    assert "supcon" in capsys.readouterr().out
    assert run(["losses", "triplet"]) == 0
    assert "Hermans" in capsys.readouterr().out
    assert run(["losses", "*sim*", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "multi_similarity": {"alpha": 2.0, "beta": 50.0, "base": 0.5}
    }
    assert run(["samplers"]) == 0
    told = capsys.readouterr().out
    assert "hard_classes" in told
    assert "super_classes (needed)" in told
    assert run(["mining"]) == 0
    assert "semi_hard" in capsys.readouterr().out
    assert run(["models", "resnet1*"]) == 0
    assert "resnet18" in capsys.readouterr().out
    assert run(["data"]) == 0
    assert "objects" in capsys.readouterr().out
    assert run(["data", "objects"]) == 0
    assert "CC0" in capsys.readouterr().out


def test_doctor(capsys):
    assert run(["doctor"]) == 0
    assert "Python" in capsys.readouterr().out
    assert run(["doctor", "--quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["what"] == "Python"


def test_contact_sheet_and_check(photos, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert run(["data", str(photos), "--sheet", str(sheet), "--check"]) == 0
    assert "0 of 48 images cannot be read" in capsys.readouterr().out
    with Image.open(sheet) as drawn:
        assert drawn.width > 200


# What people get wrong


def test_missing_folder(capsys, tmp_path):
    fails(capsys, ["train", str(tmp_path / "phtos")], 2, "phtos", "there is no such file or folder")


def test_a_word_that_is_no_source(capsys):
    fails(capsys, ["train", "objcts"], 2, "'objcts'", "Did you mean 'objects'?")


def test_one_class(capsys, tmp_path):
    fails(
        capsys,
        ["train", str(draw(tmp_path / "cats", 1, 4)), "--folder", str(tmp_path / "run")],
        1,
        "one class",
        "class-0",
    )
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_truncated_jpeg_and_text_as_png(capsys, tmp_path):
    folder = draw(tmp_path / "photos", 16, 4)
    whole = folder / "class-0" / "whole.jpg"
    Image.effect_noise((64, 64), 90).save(whole)
    data = whole.read_bytes()[:700]
    for c in range(16):  # whatever the split, some are in the training half
        (folder / f"class-{c}" / "cut.jpg").write_bytes(data)
        (folder / f"class-{c}" / "notes.png").write_text("these are notes")
    fails(
        capsys,
        ["train", str(folder), *QUICK, "--folder", str(tmp_path / "run")],
        1,
        "cut.jpg",
        "notes.png",
        "data.skip_unreadable",
    )
    assert (
        run(
            [
                "train",
                str(folder),
                *QUICK,
                "data.skip_unreadable=true",
                "--folder",
                str(tmp_path / "run2"),
                "--no-report",
            ]
        )
        == 0
    )


def test_a_gif_named_jpg_decodes(tmp_path, capsys):
    folder = draw(tmp_path / "photos", 8, 4)
    with Image.open(folder / "class-0" / "0.png") as image:
        image.save(folder / "class-0" / "gif", format="GIF")
    (folder / "class-0" / "gif").rename(folder / "class-0" / "odd.JPG")
    assert run(["data", str(folder), "--check"]) == 0
    assert "0 of 33 images cannot be read" in capsys.readouterr().out


def test_csv_without_label(capsys, tmp_path):
    table = tmp_path / "birds.csv"
    table.write_text("path,species\na.png,finch\n")
    fails(capsys, ["train", str(table)], 1, "birds.csv", "label", "species")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("loss.bata=40", ["unknown key 'loss.bata'", "Did you mean 'loss.beta'?"]),
        ("batch.images_per_class=1", ["images_per_class = 1 gives no positive pair", "2 or more"]),
        ("train.epochs=many", ["train.epochs", "many"]),
        ("loss.name=tripplet", ["tripplet", "Did you mean 'triplet'?"]),
        ("train.epochs", ["key=value"]),
    ],
)
def test_wrong_settings(capsys, photos, override, words):
    fails(capsys, ["train", str(photos), override, "--dry-run"], 2, *words)


def test_unknown_key_in_a_file_names_the_file(capsys, photos, tmp_path):
    config = tmp_path / "birds.toml"
    config.write_text(f'[data]\nsource = "{photos}"\n[loss]\nname = "multi_similarity"\nbata = 4\n')
    fails(capsys, ["train", str(config)], 2, "birds.toml: unknown key 'loss.bata'. Did you mean 'loss.beta'?")


def test_a_checkpoint_of_another_model(capsys, trained, tmp_path):
    fails(capsys, ["train", str(trained), "model.dim=64", "--resume"], 1, "model.dim", "128", "64")


def test_a_run_that_is_none(capsys, tmp_path):
    fails(capsys, ["evaluate", str(tmp_path)], 1, "not the folder of a run")
    fails(capsys, ["report", str(tmp_path)], 1, "not the folder of a run")
    fails(capsys, ["train", str(tmp_path / "x.toml")], 2, "there is no such file")


def test_a_folder_that_holds_a_run(capsys, trained, photos):
    fails(
        capsys, ["train", str(photos), *QUICK, "--folder", str(trained)], 1, "already holds a run", "--resume"
    )


def test_embed_of_nothing(capsys, trained, tmp_path):
    fails(
        capsys,
        ["embed", str(trained), str(tmp_path / "no.png"), "-o", str(tmp_path / "v.npz")],
        1,
        "no such file",
    )
    fails(capsys, ["embed", str(trained), str(tmp_path), "-o", str(tmp_path / "v.npz")], 1, "has no images")
    fails(
        capsys, ["embed", str(trained), str(tmp_path), "-o", str(tmp_path / "v.txt")], 2, ".npz or .parquet"
    )


def test_a_command_that_is_none(capsys):
    fails(capsys, ["trian", "objects"], 2, "No such command 'trian'")
    fails(capsys, ["evaluate"], 2, "RUN")


def test_a_setting_that_is_no_loss(capsys):
    fails(capsys, ["losses", "tripplet"], 1, "Did you mean 'triplet'?")


def test_no_backbone_matches(capsys):
    fails(capsys, ["models", "resnet1888"], 1, "no backbone matches 'resnet1888'")


def test_debug_shows_the_traceback(capsys, tmp_path):
    assert run(["train", str(tmp_path / "phtos"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
