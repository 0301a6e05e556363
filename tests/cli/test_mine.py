"""`nearfar mine`: what a person reads, the page, and what they get wrong."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.cli.app import run
from nearfar.data.table import Table
from nearfar.offline import Suspects, mine
from nearfar.report.mined import hard_rows, summarise_mined, suspect_cards, write_mined
from nearfar.report.sections import Gallery

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two steps on stripes; one picture stands under two labels."""
    photos, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for c in range(10):
        (photos / f"class-{c}").mkdir()
        colour = random.integers(0, 200, 3)
        for i in range(4):
            pixels = np.clip(colour + random.integers(0, 56, (40, 40, 3)), 0, 255).astype(np.uint8)
            pixels[:: c + 2] = 255 - pixels[:: c + 2]
            Image.fromarray(pixels).save(photos / f"class-{c}" / f"{i}.png")
        shutil.copy(photos / "class-0" / "0.png", photos / f"class-{c}" / "copy.png")
    folder = tmp_path_factory.mktemp("runs") / "photos"
    settings = ["model.size=32", "train.steps=2", "batch.classes_per_batch=4", "batch.images_per_class=2"]
    settings += ["train.precision=float32", "train.validate_on=none"]
    assert run(["train", str(photos), *settings, "--folder", str(folder), "--no-report"]) == 0
    return folder


def test_mine(trained, capsys):
    capsys.readouterr()
    assert run(["mine", str(trained)]) == 0
    shown = capsys.readouterr().out
    assert "25 training images of 5 classes" in shown
    assert "like one thing under two labels" in shown
    assert "semi-hard" in shown
    page = (trained / "mine.html").read_text(encoding="utf-8")
    assert str(trained / "mine.html") in shown
    assert "One thing under two labels?" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_as_json(trained, capsys):
    capsys.readouterr()
    assert run(["mine", str(trained), "--json", "--most", "12", "--margin", "0.1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] <= 12
    assert found["images_in_all"] == 25
    sizes = found["images"], found["classes"]
    assert sum(found["triplets"].values()) == sizes[0] * (sizes[0] // sizes[1] - 1) * (
        sizes[0] - sizes[0] // sizes[1]
    )
    assert sum(found["pictures"].values()) == found["images"]
    assert Path(found["page"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["no-such-run"], 1, "no-such-run is not the folder of a run"),
        (["RUN", "--most", "3"], 2, "most"),
        (["RUN", "--margin", "0"], 1, "positive margin; got 0"),
        (["RUN", "--guard", "99"], 1, "guard is a share of the positive pairs"),
    ],
)
def test_what_people_get_wrong(trained, capsys, arguments, status, words):
    capsys.readouterr()
    assert run(["mine", *[str(trained) if word == "RUN" else word for word in arguments]]) == status
    said = capsys.readouterr().err
    said = said[said.index("nearfar: ") :]
    assert words in said
    assert said.count("nearfar: ") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", [["--margin", "0"], ["--guard", "0"]])
def test_settings_are_checked_before_anything_is_embedded(trained, capsys, arguments):
    capsys.readouterr()
    assert run(["mine", str(trained), *arguments]) == 1
    assert "embed" not in capsys.readouterr().err


def test_a_run_without_a_model(trained, tmp_path, capsys):
    shutil.copy(trained / "config.toml", tmp_path)
    for command in ("mine", "evaluate", "report"):
        assert run([command, str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert said == (
            f"nearfar: the training of {tmp_path} is not finished; go on with: nearfar train {tmp_path} --resume\n"
        )


@pytest.fixture
def drawn(tmp_path) -> Table:
    """Five pictures of one colour each."""
    paths = []
    for number in range(5):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (20, 20), (50 * number, 90, 90)).save(paths[-1])
    labels = np.array([0, 0, 1, 1, 2])
    return Table(np.array(paths, object), labels, ("<b>tom & co</b>", "cat", "alone"), {}, "drawn", "drawn")


@pytest.mark.parametrize("angles", [[0, 1, 40, 41, 90], [0, 40, 41, 80, 60], [0, 0, 0, 0, 0]])
def test_the_page_of_any_result(drawn, tmp_path, angles):
    """Nothing hard, something hard, everything equal; names are text and not markup."""
    turned = torch.deg2rad(torch.tensor(angles, dtype=torch.float32))
    x = torch.stack([turned.cos(), turned.sin()], 1)
    mined = mine(x, torch.from_numpy(drawn.label), margin=0.05)
    summary = summarise_mined(mined, drawn)
    assert summary["pictures"]["alone"] == 1
    json.dumps(summary, allow_nan=False)
    page = write_mined(mined, drawn, summary, tmp_path).read_text(encoding="utf-8")
    assert "<b>tom" not in page
    assert "nan" not in page.lower().split("</style>")[1].replace("data:image", "")[:2000]


def test_the_surest_suspects_come_first_and_are_no_hard_negatives(drawn):
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9], [0.7, 0.7]])
    found = Suspects(
        np.array([[0, 2], [1, 3]]), np.array([0.9, 0.8], np.float32), np.array([False, True]), 0.8
    )
    mined = replace(mine(x, torch.from_numpy(drawn.label), guard=1.0), suspects=found)
    gallery = Gallery(drawn)
    assert [card["files"] for card in suspect_cards(mined, gallery)] == [
        ["1.png", "3.png"],
        ["0.png", "2.png"],
    ]
    rows = hard_rows(mined, gallery)
    assert (mined.negative_similarity > 0.9).any()
    assert rows
    assert all(float(tile.words) < 0.8 for row in rows for tile in row["others"])


def test_all_labels_differ(drawn, tmp_path):
    table = Table(drawn.path, np.arange(5), tuple("abcde"), {}, "drawn", "drawn")
    mined = mine(torch.eye(5), torch.arange(5))
    summary = summarise_mined(mined, table)
    assert summary["threshold"] is None
    assert "No class has two pictures" in write_mined(mined, table, summary, tmp_path).read_text()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no chromium on this machine")
@pytest.mark.parametrize("width", [380, 1280])
def test_the_page_fits_the_screen(trained, width):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    assert run(["mine", str(trained)]) == 0
    with api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        page, faults = browser.new_page(viewport={"width": width, "height": 800}), []
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on(
            "request", lambda request: faults.append(request.url) if request.url.startswith("http") else None
        )
        page.goto((trained / "mine.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#suspects .pair").count() > 0
        browser.close()
    assert faults == []
