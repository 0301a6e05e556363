"""Each picture is decoded once for a whole report, a photo at a fraction of its size, within a bound of memory."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from nearfar.cli.app import run
from nearfar.errors import DataError
from nearfar.models import Embedder
from nearfar.report import gather, write_report
from nearfar.report.compare import read_runs
from nearfar.report.decoding import SHOWN, Small, look, small_square
from nearfar.report.opened import open_run
from nearfar.report.pictures import Thumbnails

QUICK = ["model.size=48", "train.steps=1", "batch.classes_per_batch=3", "batch.images_per_class=2",
         "train.precision=float32", "train.validate_on=none"]  # fmt: skip


def draw(folder: Path, classes: int = 8, per_class: int = 3) -> Path:
    """Write photos of 1,600 x 1,200 pixels, in a folder for each class."""
    random = np.random.default_rng(0)
    for c in range(classes):
        (folder / f"class-{c}").mkdir(parents=True)
        for i in range(per_class):
            coarse = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
            image = Image.fromarray(coarse).resize((1600, 1200), Image.Resampling.BICUBIC)
            image.save(folder / f"class-{c}" / f"{i}.jpg", quality=80)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    photos = draw(tmp_path_factory.mktemp("photos"))
    folder = tmp_path_factory.mktemp("runs") / "photos"
    assert run(["train", str(photos), *QUICK, "--folder", str(folder), "--no-report"]) == 0
    return folder


@pytest.fixture
def decoded(monkeypatch) -> Counter[str]:
    """How often the pixels of each file were decoded, and whether at full size."""
    counts: Counter[str] = Counter()
    whole = ImageFile.ImageFile.load

    def counted_file(self):
        if self.format == "JPEG" and self.tile:
            counts[Path(self.fp.name).as_posix()] += 1
            counts["full size"] += self.size == (1600, 1200)
        return whole(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted_file)
    return counts


def once(decoded: Counter[str], pictures: int) -> None:
    assert decoded.pop("full size") == 0
    assert len(decoded) == pictures
    assert set(decoded.values()) == {1}


def test_a_report(trained, tmp_path, decoded):
    write_report(gather(trained), tmp_path)
    once(decoded, 24)


def test_a_report_that_leaves_broken_pictures_out(trained, tmp_path, decoded):
    write_report(gather(trained, overrides=["data.skip_unreadable=true"]), tmp_path)
    once(decoded, 24)


def test_mine(trained, decoded, capsys):
    assert run(["mine", str(trained)]) == 0
    once(decoded, 12)


def test_compare(trained, decoded):
    for name in ("test.json", "result.json"):
        (trained / name).unlink(missing_ok=True)
    read_runs([trained], lambda *_: None)
    once(decoded, 12)
    (trained / "test.json").unlink()


def test_embeddings_are_those_of_encode(trained):
    model = Embedder.load(trained / "model")
    test = open_run(trained).tables.test
    looked = look(test, [(model, True), (model, False)])
    torch.testing.assert_close(torch.from_numpy(looked.embeddings[0]), model.encode(test), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        torch.from_numpy(looked.embeddings[1]), model.encode(test, head=False), rtol=0, atol=1e-6
    )
    assert looked.rows.tolist() == list(range(12))


def test_broken_pictures_are_named_or_left_out(trained, tmp_path, capsys):
    model = Embedder.load(trained / "model")
    test = open_run(trained).tables.test
    test.path[3] = str(tmp_path / "gone.jpg")
    (tmp_path / "cut.jpg").write_bytes(Path(test.path[5]).read_bytes()[:900])
    test.path[5] = str(tmp_path / "cut.jpg")
    with pytest.raises(DataError, match=r"(?s)2 of 12 images cannot be read.*gone\.jpg.*cut\.jpg"):
        look(test, [(model, True)])
    looked = look(test, [(model, True)], skip_unreadable=True)
    assert looked.rows.tolist() == [0, 1, 2, 4, 6, 7, 8, 9, 10, 11]
    assert len(looked.table) == len(looked.embeddings[0]) == len(looked.pixels) == 10
    torch.testing.assert_close(
        torch.from_numpy(looked.embeddings[0]), model.encode(looked.table), rtol=0, atol=1e-5
    )
    with pytest.raises(DataError, match="none of its 2 images can be read"):
        look(test.select(np.array([3, 5])), [(model, True)], skip_unreadable=True)


def test_copies_stay_within_their_bound(tmp_path):
    paths = []
    for number in range(6):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (300, 200), (number, 0, 0)).save(paths[-1])
    each = 3 * SHOWN * SHOWN
    small = Small(limit=4 * each)
    for number, path in enumerate(paths):
        assert small.image(path).getpixel((5, 5)) == (number, 0, 0)
        assert small.bytes <= 4 * each
    assert small.bytes == 4 * each
    Path(paths[0]).unlink()
    assert small.image(paths[0]).size == (SHOWN, SHOWN)  # kept
    assert small.image(paths[5]).getpixel((5, 5)) == (5, 0, 0)  # decoded again


def test_small_pictures_keep_their_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 41, 3)).astype(np.uint8)
    found = small_square(Image.fromarray(pixels))
    np.testing.assert_array_equal(np.asarray(found), pixels[:, 4:36])


def test_a_small_network_does_not_make_photos_small(tmp_path):
    """At 16 pixels a side, a JPEG could be decoded at 50 x 38 pixels, and would be shown pixel by pixel."""
    from nearfar.data.preprocess import Preprocess
    from nearfar.data.table import Table
    from nearfar.report.decoding import Decoder

    Image.effect_noise((800, 600), 50).save(tmp_path / "a.jpg")
    small = Small()
    list(Decoder([Preprocess(16)], small).parts([str(tmp_path / "a.jpg")]))
    table = Table(np.array([str(tmp_path / "a.jpg")], dtype=object), np.array([0]), ("a",))
    assert not Thumbnails(table, small).crisp


def test_the_report_and_evaluate_agree_on_photos(trained, tmp_path, capsys):
    write_report(gather(trained), tmp_path)
    capsys.readouterr()
    assert run(["evaluate", str(trained), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    result = json.loads((tmp_path / "result.json").read_text())["results"]["after"]
    assert result["recall_at_k"]["1"] == told["recall_at_k"]["1"]
    assert result["map_at_r"] == told["map_at_r"]
