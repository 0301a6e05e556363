"""What the commands make of people's data: columns that are followed, files that are broken or have changed."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import nearfar
from nearfar.cli.app import run
from nearfar.config import Config
from nearfar.data import read_table
from nearfar.train import train
from nearfar.train.setup import tables_of

QUICK = ["model.size=16", "train.epochs=1", "batch.classes_per_batch=4", "batch.images_per_class=2"]
QUICK += ["train.precision=float32", "train.validate_on=none", "model.backbone=nearfar/small"]
QUICK += ["optimizer.warmup_epochs=0"]


def draw(folder: Path, classes: int, per_class: int, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for c in range(classes):
        colour = rng.integers(0, 200, 3)
        for i in range(per_class):
            pixels = np.clip(colour + rng.integers(0, 56, (20, 20, 3)), 0, 255).astype(np.uint8)
            (folder / f"class-{c:02}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"class-{c:02}" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("photos"), 16, 4)


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(Config.load(photos, QUICK), folder, progress=False)
    return folder


@pytest.fixture
def copied(photos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photos, tmp_path / "photos"))


def table_of(photos: Path, file: Path, **columns: list[Any]) -> Path:
    paths = sorted(photos.rglob("*.png"))
    given = {"path": list(map(str, paths)), "label": [path.parent.name for path in paths], **columns}
    rows = "\n".join(",".join(map(str, row)) for row in zip(*given.values(), strict=True))
    file.write_text(",".join(given) + "\n" + rows)
    return file


def measured(capsys: pytest.CaptureFixture, *arguments: object) -> dict[str, Any]:
    assert run(["evaluate", *map(str, arguments), "--json", "--bootstrap", "0"]) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    capsys.readouterr()
    assert run(list(map(str, arguments))) == 1
    said = capsys.readouterr().err
    assert "should not happen" not in said
    return said


class TestColumns:
    def expected(self, trained: Path, file: Path, **arguments: np.ndarray) -> float:
        table = read_table(file)
        query, gallery = (np.flatnonzero(table.columns[r]) for r in ("is_query", "is_gallery"))
        embeddings = nearfar.load(trained).encode(table)
        sides = {name: values[query] for name, values in arguments.items()}
        sides |= {f"gallery_{name}": values[gallery] for name, values in arguments.items()}
        result = nearfar.evaluate.retrieval(
            embeddings[query],
            table.label[query],
            gallery=embeddings[gallery],
            gallery_labels=table.label[gallery],
            **sides,
        )
        return result.map_at_r

    @pytest.mark.parametrize("column", ["camera", "sequence", "id"])
    @pytest.mark.parametrize("words", [False, True])
    @pytest.mark.filterwarnings("ignore::nearfar.evaluate.labels.RepeatedIdWarning")
    def test_say_who_finds_whom(self, trained, photos, tmp_path, capsys, column, words) -> None:
        numbers = np.arange(64) % 3
        values = [f"v{n}" for n in numbers] if words else numbers.tolist()
        roles = {"is_query": [i % 4 == 0 for i in range(64)], "is_gallery": [i % 4 != 0 for i in range(64)]}
        file = table_of(photos, tmp_path / "t.csv", **roles, **{column: values})
        found = measured(capsys, trained, file)
        plain = measured(capsys, trained, table_of(photos, tmp_path / "plain.csv", **roles))
        argument = {"camera": "cameras", "sequence": "sequences", "id": "ids"}[column]
        assert found["map_at_r"] == pytest.approx(
            self.expected(trained, file, **{argument: numbers}), abs=1e-6
        )
        assert abs(found["map_at_r"] - plain["map_at_r"]) > 1e-3
        assert f"the query's {column}" in found["asked"].replace("class and camera", "camera")
        assert "no candidates" not in plain["asked"]

    def test_where_each_image_searches_all_others(self, trained, photos, tmp_path, capsys) -> None:
        cameras = np.arange(64) % 2
        file = table_of(photos, tmp_path / "t.csv", camera=cameras.tolist())
        embeddings = nearfar.load(trained).encode(read_table(file))
        expected = nearfar.evaluate.retrieval(embeddings, read_table(file).label, cameras=cameras)
        found = measured(capsys, trained, file)
        assert found["recall_at_k"]["1"] == pytest.approx(expected.recall_at_k[1])
        assert "each searches all others; images of the query's class and camera are" in found["asked"]

    def test_a_missing_camera_is_like_no_other(self, trained, photos, tmp_path, capsys) -> None:
        plain = measured(capsys, trained, table_of(photos, tmp_path / "plain.csv"))
        file = table_of(photos, tmp_path / "t.csv", camera=["a", *[""] * 63])
        assert measured(capsys, trained, file)["recall_at_k"] == plain["recall_at_k"]

    def test_boxes_are_cut_out(self, trained, photos, tmp_path, capsys) -> None:
        sides = np.stack([np.zeros(64), np.arange(64) % 5, np.full(64, 12), np.full(64, 15)], axis=1)
        boxes = {name: sides[:, place].tolist() for place, name in enumerate(("x_1", "y_1", "x_2", "y_2"))}
        file = table_of(photos, tmp_path / "t.csv", **boxes)
        pictures = []
        for path, box in zip(read_table(file).path, sides, strict=True):
            with Image.open(str(path)) as image:
                pictures.append(image.crop(tuple(map(int, box))))
        embeddings = nearfar.load(trained).encode(pictures)
        expected = nearfar.evaluate.retrieval(embeddings, read_table(file).label)
        found = measured(capsys, trained, file)
        assert found["recall_at_k"]["1"] == pytest.approx(expected.recall_at_k[1])
        assert found["map_at_r"] == pytest.approx(expected.map_at_r, abs=1e-6)
        assert "each image is the part in its box" in found["asked"]

    def test_no_query(self, trained, photos, tmp_path, capsys) -> None:
        roles = {"is_query": [False] * 64, "is_gallery": [True] * 64}
        file = table_of(photos, tmp_path / "t.csv", **roles)
        assert "no image has is_query" in fails(capsys, "evaluate", trained, file)

    def test_training_says_once_which_it_does_not_follow(self, photos, tmp_path, caplog) -> None:
        split = ["train", "test"] * 32
        file = table_of(photos, tmp_path / "t.csv", split=split, camera=[1, 2] * 32, group=[0] * 64)
        tables_of(Config.load(file, QUICK))
        assert caplog.text.count("t has camera: validation and the report let each image search all") == 1
        assert "t has the column group, which nothing follows" in caplog.text


class TestBroken:
    def test_those_of_all_parts_are_told_before_training(self, copied, tmp_path, capsys) -> None:
        tables = tables_of(Config.load(copied, QUICK))
        broken = [tables.test.path[0], tables.test.path[9], tables.train.path[3]]
        for path in broken:
            Path(path).write_text("no image")
        said = fails(capsys, "train", copied, *QUICK, "--folder", tmp_path / "run")
        assert "3 of 64 images cannot be read" in said
        assert all(path in said for path in broken)
        assert not (tmp_path / "run").exists()
        skip = "data.skip_unreadable=true"
        arguments = ["train", copied, *QUICK, skip, "--folder", tmp_path / "run", "--no-report"]
        assert run(list(map(str, arguments))) == 0
        told = capsys.readouterr().err
        assert f"left out 2 of 32 images that cannot be read: {', '.join(sorted(broken[:2]))}" in told
        assert f"images that cannot be read: {broken[2]}" in told
        counts = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
        assert counts["test"]["images"] == 30
        assert run(["train", str(copied), *QUICK, skip, "--dry-run"]) == 0
        assert "test        30 images" in capsys.readouterr().out
        assert run(["report", str(tmp_path / "run")]) == 0
        assert told.count("left out") == capsys.readouterr().err.count("left out") == 2

    def test_evaluate_and_embed_go_on_if_told_so(self, trained, copied, tmp_path, capsys) -> None:
        (copied / "class-03" / "1.png").write_text("no image")
        output = tmp_path / "v.npz"
        for command in (["evaluate", trained, copied], ["embed", trained, copied, "-o", output]):
            said = fails(capsys, *command)
            assert "1 of 64 images cannot be read" in said
            assert "give --skip-unreadable to go on without them" in said
            assert run([*map(str, command), "--skip-unreadable"]) == 0
        with np.load(output) as saved:
            assert len(saved["path"]) == len(saved["embedding"]) == 63

    def test_rows_without_a_file(self, trained, copied, tmp_path, capsys) -> None:
        file = table_of(copied, tmp_path / "t.csv")
        (copied / "class-03" / "1.png").unlink()
        assert "no such file" in fails(capsys, "evaluate", trained, file)
        assert run(["evaluate", str(trained), str(file), "--skip-unreadable", "--bootstrap", "0"]) == 0
        assert "63 images of 16 classes" in capsys.readouterr().out
        assert run(["data", str(file), "--check"]) == 1
        shown = capsys.readouterr().out
        assert "1.png: no such file" in shown
        assert "1 of 64 images cannot be read" in shown

    def test_check_fails_where_files_are_broken(self, copied, capsys) -> None:
        assert run(["data", str(copied), "--check"]) == 0
        (copied / "class-03" / "1.png").write_text("no image")
        assert run(["data", str(copied), "--check"]) == 1
        capsys.readouterr()
        assert run(["data", str(copied), "--check", "--json"]) == 1
        assert len(json.loads(capsys.readouterr().out)["unreadable"]) == 1


class TestCounts:
    def test_validation_is_counted(self, photos, tmp_path, capsys) -> None:
        split = ["train"] * 40 + ["val"] * 8 + ["test"] * 16
        assert run(["data", str(table_of(photos, tmp_path / "t.csv", split=split))]) == 0
        shown = capsys.readouterr().out
        for line in ("train      40 images of 10", "validation 8 images of 2", "test       16 images of 4"):
            assert line in shown

    def test_leaves(self, photos, tmp_path, capsys) -> None:
        nested = Path(shutil.copytree(photos, tmp_path / "set" / "one")).parent
        shutil.copytree(photos / "class-00", nested / "two")
        assert run(["data", str(nested)]) == 0
        shown = capsys.readouterr()
        assert "68 images of 2 classes" in shown.out
        assert "(--leaves of `nearfar data`)" in shown.err
        assert run(["data", str(nested), "--leaves"]) == 0
        assert "68 images of 17 classes" in capsys.readouterr().out
        config = Config.load(nested, [*QUICK, "data.classes=leaf"])
        assert sum(t.class_count() for t in (tables_of(config).train, tables_of(config).test)) == 17

    def test_few_training_classes_are_told(self, tmp_path, caplog) -> None:
        folder = draw(tmp_path / "ten", 10, 4)
        tables_of(Config.load(folder, []))
        assert "ten: training learns from 3 classes alone; 5 more are for the test, 2 held out" in caplog.text

    def test_who_looks_at_a_run_is_not_told_how_to_train(self, tmp_path, capsys) -> None:
        photos, folder = draw(tmp_path / "eight", 8, 4), tmp_path / "run"
        quick = [setting for setting in QUICK if "steps" not in setting]
        assert (
            run(["train", str(photos), *quick, "train.steps=1", "--folder", str(folder), "--no-report"]) == 0
        )
        assert "classes alone" in capsys.readouterr().err
        for command in (
            ["evaluate", folder],
            ["evaluate", folder, photos],
            ["report", folder],
            ["mine", folder],
        ):
            assert run(list(map(str, command))) == 0
            assert "classes alone" not in capsys.readouterr().err

    def test_unlabelled_images_are_left_out(self, photos, tmp_path) -> None:
        file = table_of(photos, tmp_path / "t.csv")
        file.write_text(file.read_text().replace(",class-00", ",-1").replace(",class-01", ",-1"))
        tables = tables_of(Config.load(file, [*QUICK, "data.unlabelled=-1"]))
        assert len(tables.train) + len(tables.test) == 56


class TestEmbed:
    def test_hidden_pictures_are_passed_over(self, trained, tmp_path, capsys) -> None:
        photos, output = tmp_path / ".photos", tmp_path / "v.npz"
        draw(photos / ".ipynb_checkpoints", 1, 1)
        draw(photos, 1, 1)
        os.rename(photos / "class-00" / "0.png", photos / "class-00" / "._x.png")
        assert "has no images in it" in fails(capsys, "embed", trained, photos, "-o", output)
        assert not output.exists()
        (photos / "x.png").mkdir()
        Image.new("RGB", (20, 20)).save(photos / "x.png" / "y.jpeg")
        (photos / "notes.txt").write_text("")
        assert run(["embed", str(trained), str(photos), "-o", str(output)]) == 0
        assert "files that are no pictures are left out: 1 (.txt 1)" in capsys.readouterr().err
        with np.load(output) as saved:
            assert [Path(path).name for path in saved["path"]] == ["y.jpeg"]

    @pytest.mark.parametrize("suffix", ["npz", "parquet"])
    def test_names_that_are_not_utf8(self, trained, tmp_path, suffix) -> None:
        photos, output = draw(tmp_path / "photos", 1, 1), tmp_path / f"v.{suffix}"
        try:
            os.rename(photos / "class-00", os.fsencode(photos) + b"/c\xe4t")
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
        assert run(["embed", str(trained), str(photos), "-o", str(output)]) == 0
        if suffix == "parquet":
            assert pq.read_table(output)["path"].to_pylist() == [rf"{photos}/c\xe4t/0.png"]


class TestContents:
    @pytest.mark.parametrize("how", ["pixels", "touched", "copied"])
    def test_a_run_goes_on_only_with_the_same_pictures(self, copied, tmp_path, how) -> None:
        config = Config.load(copied, [*QUICK, "train.epochs=2"])
        path = Path(tables_of(config).train.path[5])
        run_folder = tmp_path / "run"

        class Stop(Exception):
            pass

        from nearfar.train import loop

        with pytest.MonkeyPatch.context() as patch:  # killed after the first epoch
            end = loop.Run._end_of_epoch

            def stop(self, command: str) -> None:
                end(self, command)
                raise Stop

            patch.setattr(loop.Run, "_end_of_epoch", stop)
            with pytest.raises(Stop):
                train(config, run_folder, progress=False)
        if how == "touched":
            os.utime(path, (1, 1))
        elif how == "pixels":
            with Image.open(path) as image:
                Image.fromarray(255 - np.asarray(image)).save(path)
            named = rf"have changed since .*: 1 \('{path.parent.name}/{path.name}'\) of \d+; restore them"
            with pytest.raises(nearfar.errors.CheckpointError, match=named):
                train(config, run_folder, resume=True, progress=False)
            return
        else:
            shutil.move(copied, tmp_path / "before")
            shutil.copytree(tmp_path / "before", copied)
        assert train(config, run_folder, resume=True, progress=False).best_epoch == 2
