"""The page: whole, self-contained, escaped, and with the numbers of result.json."""

import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from drawn_pictures import drawn_material, noisy_means
from nearfar.errors import DataError
from nearfar.report import Material, write_report
from nearfar.report.page import changes, duration, moment
from nearfar.report.pictures import Thumbnails
from nearfar.report.summary import find, in_100, summarise

VOID = {"img", "meta", "link", "br", "input", "rect", "line", "path", "circle"}
NASTY = "</script><b>&\"'"


class Page(HTMLParser):
    """Elements with their attributes, text by element; an end tag that does not fit fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def ids(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.elements if "id" in attrs]


@pytest.fixture(scope="module")
def report(material, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    told = []
    path = write_report(
        material, folder, progress=lambda words, done, total: told.append((words, done, total))
    )
    assert told[-1][1] == told[-1][2]
    return path


@pytest.fixture(scope="module")
def page(report):
    return Page(report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def numbers(report):
    return json.loads(report.with_name("result.json").read_text(encoding="utf-8"))


def test_three_files_and_no_other(report):
    assert sorted(path.name for path in report.parent.iterdir()) == [
        "report.html",
        "report.png",
        "result.json",
    ]
    assert report.stat().st_size < 1_000_000
    with Image.open(report.with_name("report.png")) as picture:
        assert picture.width >= 1000


def test_nothing_is_fetched(report, page):
    for tag, attrs in page.elements:
        for key in ("src", "href", "srcset", "poster", "action"):
            value = attrs.get(key) or "data:"
            assert value.startswith(("data:", "#")), f"<{tag} {key}={value[:60]}> leaves the page"
    text = report.read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|\bfetch\(|XMLHttpRequest|sendBeacon", text)
    assert all(link.startswith(("data:", '"${', '"$')) for link in re.findall(r"url\((.{0,20})", text))


def test_every_section_and_every_link_target_is_there(page):
    ids = page.ids()
    assert len(ids) == len(set(ids))
    sections = [
        "strip",
        "how-well",
        "queries",
        "confusions",
        "similarity",
        "classes",
        "map",
        "training",
        "data",
        "next",
        "repeat",
    ]
    assert [name for name in ids if name in sections] == sections
    for _, attrs in page.elements:
        target = attrs.get("href") or ""
        if target.startswith("#") and not target.startswith("#class-"):
            assert target[1:] in ids
    figures = {name for name in ids if name.startswith("figure-")}
    assert figures == {
        f"figure-{name}" for name in ("headline", "recall", "similarity", "classes", "training")
    }


def test_pictures_have_words_and_sizes(page):
    images = [attrs for tag, attrs in page.elements if tag == "img"]
    assert len(images) > 100
    for attrs in images:
        assert "alt" in attrs
        assert "hidden" in attrs or (attrs["alt"] and attrs["width"] and attrs["height"])
    assert page.text.count("✓") > 20
    assert page.text.count("✗") > 20
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_page_and_result_tell_the_same_numbers(page, numbers, material):
    results = numbers["results"]
    assert numbers["sentence"] in page.text
    for kind, result in results.items():
        assert result["recall_at_k"]["1"] == material.results[kind].recall_at_k[1]
        for value in (result["recall_at_k"]["1"], result["map_at_r"], result["r_precision"]):
            assert f"{100 * value:.1f} %" in page.text
        low, high = result["intervals"]["recall_at_1"]
        assert f"{100 * low:.1f}–{100 * high:.1f}" in page.text
    pairs = numbers["similarity"]["after"]
    assert f"{100 * pairs['overlap']:.1f} %" in page.text
    assert f"threshold {pairs['threshold']:.2f}" in page.text
    assert f"all {pairs['positive_pairs']:,} of the same" in page.text
    worst = numbers["classes"][-1]
    assert f"{worst['name']} {worst['right']} of {worst['queries']}" in page.text
    assert sum(line["right"] for line in numbers["classes"]) == round(
        results["after"]["recall_at_k"]["1"] * 72
    )
    assert numbers["wrong_queries"] == 72 - sum(line["right"] for line in numbers["classes"])
    assert len(numbers["advice"]) <= 3
    for advice in numbers["advice"]:
        assert " ".join(advice.split()) in page.text


def test_how_to_repeat_it(page):
    assert "nearfar train drawn train.seed=3" in page.text
    assert "train.seed 3 1" in page.text
    assert 'model.backbone "nearfar/small" "resnet18"' in page.text
    assert "model.dim" not in page.text
    assert "1 min 15 s" in page.text
    assert "2026-11-22 03:51 UTC" in page.text


def test_names_are_escaped_everywhere(tmp_path):
    classes = [NASTY, "<img src=x onerror=alert(1)>", "a & b"]
    path = write_report(
        drawn_material(tmp_path, classes, 5, run={"command": "nearfar train '<x>' & y"}), tmp_path / "out"
    )
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not any(attrs.get("src") == "x" or "onerror" in attrs for _, attrs in page.elements)
    assert NASTY in page.text
    assert "nearfar train '<x>' & y" in page.text
    (data,) = re.findall(r'<script type="application/json" id="points">(.*?)</script>', text, re.S)
    assert json.loads(data)["names"] == classes


def test_names_that_are_no_utf_8_or_hold_escapes(tmp_path):
    classes = ["cl\udcff", "a\x1b[31mb", "c\u202ed"]
    path = write_report(drawn_material(tmp_path, classes, 4), tmp_path / "out")
    Page(path.read_text(encoding="utf-8"))
    told = json.loads(path.with_name("result.json").read_text(encoding="utf-8"))
    assert {line["name"] for line in told["classes"]} == set(classes)
    (data,) = re.findall(r'id="points">(.*?)</script>', path.read_text(encoding="utf-8"), re.S)
    assert json.loads(data)["names"] == classes


def test_two_classes(tmp_path):
    path = write_report(drawn_material(tmp_path, ["left", "right"], 3), tmp_path / "out")
    page = Page(path.read_text(encoding="utf-8"))
    assert "Of 6 pictures of classes never seen in training" in page.text


def test_one_pair_and_pictures_without_an_answer(tmp_path):
    path = write_report(drawn_material(tmp_path, ["pair", "alone"], [2, 1], log=[]), tmp_path / "out")
    page = Page(path.read_text(encoding="utf-8"))
    result = json.loads(path.with_name("result.json").read_text(encoding="utf-8"))
    assert (result["queries"], result["gallery"], result["results"]["after"]["n_skipped"]) == (2, 2, 1)
    assert "1 more have no right answer" in page.text
    assert "No right answer" in page.text
    assert "There is no log of a training." in page.text


def test_one_class_only(tmp_path):
    path = write_report(drawn_material(tmp_path, ["only"], 4), tmp_path / "out")
    text = Page(path.read_text(encoding="utf-8")).text
    assert "There are no pairs of the same and of different classes to compare." in text
    assert "No query finds another class first." in text


def test_a_material_without_baselines(material, tmp_path):
    only = Material(
        material.test,
        {"after": material.embeddings["after"]},
        {"after": material.results["after"]},
        material.train,
    )
    text = Page(write_report(only, tmp_path).read_text(encoding="utf-8")).text
    assert re.search(r"Of 72 .* \d+ in 100 find the same class first\.", text)
    assert "How to repeat it" in text


def test_large_pictures_are_shrunk_and_small_ones_kept(tmp_path, material):
    small = Thumbnails(material.test)
    assert (small.crisp, small.shown(96), small.shown(52), small.shown(144)) == (True, 96, 48, 144)
    Image.new("RGB", (640, 480), "red").save(tmp_path / "large.png")
    table = material.test.select(np.array([0]))
    table.path[0] = str(tmp_path / "large.png")
    large = Thumbnails(table)
    assert (large.crisp, large.shown(96)) == (False, 96)
    assert large.square(0, 96).size == (96, 96)
    sheet = large.sheet([0] * 5)
    assert (sheet.columns, sheet.rows, sheet.tile, sheet.size) == (3, 2, 64, 5)


def test_a_report_that_fails_leaves_the_old_one(report, material, monkeypatch):
    before = {path: path.read_bytes() for path in report.parent.iterdir()}
    monkeypatch.setattr("nearfar.report.page.draw_poster", lambda *parts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(material, report.parent)
    assert {path: path.read_bytes() for path in report.parent.iterdir()} == before


def test_the_same_material_gives_the_same_page(report, material, tmp_path):
    again = write_report(material, tmp_path)
    assert again.read_bytes() == report.read_bytes()
    assert again.with_name("report.png").read_bytes() == report.with_name("report.png").read_bytes()


def test_verdict_against_another_run(material, numbers, tmp_path):
    findings = find(material)
    same = summarise(material_with(material, previous=numbers), findings)
    assert "is the same as the previous run" in same["previous"]["verdict"]
    worse = json.loads(json.dumps(numbers))
    worse["results"]["after"]["recall_at_k"]["1"] = 0.01
    worse["results"]["after"]["intervals"]["recall_at_1"] = [0.0, 0.02]
    verdict = summarise(material_with(material, previous=worse), findings)["previous"]["verdict"]
    assert "points above" in verdict
    assert "do not overlap" in verdict
    worse["data"]["test"]["images"] = 5
    assert (
        "cannot be compared"
        in summarise(material_with(material, previous=worse), findings)["previous"]["verdict"]
    )


def material_with(material: Material, **more) -> Material:
    return Material(**{name: getattr(material, name) for name in Material.__dataclass_fields__} | more)


def test_a_collapsed_model_is_told_so(material):
    rows = np.ones((72, 4), np.float32) / 2
    embeddings = {"after": (rows + 1e-3 * noisy_means(material.test.label, 1.0, 4)).astype(np.float32)}
    embeddings["after"] /= np.linalg.norm(embeddings["after"], axis=1, keepdims=True)
    flat = material_with(material, embeddings=embeddings, results={"after": material.results["after"]})
    advice = summarise(flat, find(flat))["advice"]
    assert "collapse" in advice[0]
    assert "optimizer.lr" in advice[0]


def test_material_says_what_does_not_fit(material):
    with pytest.raises(DataError, match="has 5 rows but the test table has 72"):
        material_with(material, embeddings={"after": np.ones((5, 2), np.float32)})
    with pytest.raises(DataError, match="needs the embeddings of the trained model"):
        material_with(material, embeddings={})
    with pytest.raises(DataError, match="results has no 'pixels'"):
        material_with(material, results={})


def test_words():
    assert [in_100(share) for share in (0, 0.001, 0.834, 0.999, 1)] == [
        "0",
        "fewer than 1",
        "83",
        "more than 99",
        "100",
    ]
    assert [duration(s) for s in (6, 252.4, 7260, None)] == ["6 s", "4 min 12 s", "2 h 1 min", "not known"]
    assert moment("2026-11-22T03:51:06+00:00") == "2026-11-22 03:51 UTC"
    assert changes({"a": {"b": 1, "c": "x"}}, {"a": {"b": 2, "c": "x"}}) == [("a.b", "1", "2")]
