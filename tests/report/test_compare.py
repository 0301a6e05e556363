"""Runs side by side: seeds together, intervals, differences, names, and what is refused."""

import json
import math
import re

import numpy as np
import pytest
import torch
from scipy import stats

from nearfar.cli.app import run as command
from nearfar.config import Config
from nearfar.data.preprocess import Preprocess
from nearfar.errors import CheckpointError
from nearfar.report.compare import STUDENT, group, mean_and_interval, read_runs
from nearfar.report.compare_page import draw, markdown, numbers, table
from nearfar.train.folder import FREE


def quiet(*_: object) -> None:
    pass


@pytest.fixture
def make(tmp_path):
    """Write the folder of a finished run with test figures of its own."""

    def run(name, recall, *overrides):
        folder = tmp_path / name
        (folder / "model").mkdir(parents=True)
        (folder / "config.toml").write_text(Config.load("objects", overrides).to_toml())
        told = {
            "figures": {
                "recall_at_1": recall,
                "map_at_r": (1 - recall) / 2,
            },  # the best by one is last by the other
            "intervals": {"recall_at_1": [recall - 0.1, recall + 0.1], "map_at_r": [0.0, recall]},
        }
        (folder / "test.json").write_text(json.dumps(told))
        (folder / "log.jsonl").write_text(json.dumps({"kind": "end", "step": 1, "seconds": 3.5}) + "\n")
        return folder

    return run


def test_the_interval_is_students():
    values = [0.3, 0.5, 0.4, 0.45]
    mean, low, high = mean_and_interval(values)
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean, low, high) == pytest.approx((np.mean(values), *expected), abs=1e-4)
    assert [round(stats.t.ppf(0.975, n), 3) for n in range(1, len(STUDENT) + 1)] == list(STUDENT)
    many = np.linspace(0.4, 0.6, len(STUDENT) + 2)
    expected = stats.t.interval(0.95, len(many) - 1, loc=0.5, scale=stats.sem(many))
    assert mean_and_interval(many.tolist())[1:] == pytest.approx(expected, abs=1e-4)


def test_seeds_come_together_and_the_best_comes_first(make):
    folders = [
        make("a1", 0.50, "loss.name=supcon", "train.seed=1"),
        make("b1", 0.60, "loss.name=contrastive", "train.seed=1"),
        make("a2", 0.52, "loss.name=supcon", "train.seed=2", "data.workers=0"),
        make("b2", 0.66, "loss.name=contrastive", "train.seed=2"),
        make("a3", 0.40, "loss.name=supcon", "train.seed=3"),
        make("b3", 0.60, "loss.name=contrastive", "train.seed=3"),
    ]
    groups = group(read_runs(folders, quiet))
    assert [(one.name, len(one.runs)) for one in groups] == [("contrastive", 3), ("supcon", 3)]
    assert groups[0].figure("recall_at_1")[0] == pytest.approx(0.62)
    ahead = groups[0].ahead_of(groups[1], "recall_at_1")
    assert ahead == pytest.approx(mean_and_interval([0.10, 0.14, 0.20]))
    assert groups[0].seconds == 3.5


def test_a_setting_is_named_by_what_sets_it_apart(make):
    folders = [
        make("a", 0.50, "loss.name=supcon", "loss.temperature=0.1"),
        make("b", 0.60, "loss.name=supcon", "loss.temperature=0.2"),
        make("c", 0.40, "loss.name=contrastive", "model.dim=64"),
    ]
    names = [one.name for one in group(read_runs(folders, quiet))]
    assert names == [
        "supcon, temperature = 0.2",
        "supcon, temperature = 0.1",
        "contrastive, model.dim = 64",
    ]
    alone = [
        make("d", 0.5, "loss.name=supcon", "loss.temperature=0.1"),
        make("e", 0.4, "loss.name=contrastive"),
    ]
    assert [one.name for one in group(read_runs(alone, quiet))] == ["supcon", "contrastive"]


def test_what_most_runs_have_goes_without_saying(make):
    folders = [
        make("a", 0.5, "loss.name=supcon", "optimizer.lr=5e-4"),
        make("b", 0.4, "loss.name=contrastive", "optimizer.lr=5e-4"),
        make("c", 0.3, "loss.name=contrastive", "optimizer.lr=1e-4"),  # the default
    ]
    names = [one.name for one in group(read_runs(folders, quiet))]
    assert names == ["supcon", "contrastive", "contrastive, optimizer.lr = 0.0001"]
    names = [one.name for one in group(read_runs(folders[1:], quiet))]
    assert names == ["optimizer.lr = 0.0005", "contrastive"]  # as many: the default does


def test_one_seed_keeps_the_interval_over_classes_and_shares_stay_shares(make):
    alone = group(read_runs([make("a", 0.5)], quiet))[0]
    assert alone.figure("recall_at_1") == pytest.approx((0.5, 0.4, 0.6))
    pair = [make("b", 0.02, "train.seed=1"), make("c", 0.3, "train.seed=2")]
    _, low, high = group(read_runs(pair, quiet))[0].figure("recall_at_1")
    assert low == 0.0
    assert high == 1.0


def test_what_a_run_may_change_is_another_seed_and_another_draw_is_other_data(make):
    free = {("data", "workers"): "0", ("data", "memory_limit"): "5MB", ("train", "checkpoint_minutes"): "3",
            ("train", "device"): "cpu"}  # fmt: skip
    assert set(free) <= set(FREE)
    settings = [f"{section}.{key}={value}" for (section, key), value in free.items()]
    folders = [make("a", 0.5, "train.seed=1"), make("b", 0.6, "train.seed=2", *settings)]
    assert [len(one.runs) for one in group(read_runs(folders, quiet))] == [2]
    other = make("c", 0.7, "train.seed=1", "data.split_seed=2")
    groups = group(read_runs([*folders, other], quiet))
    assert [(one.data, one.name) for one in groups] == [
        ("objects", "multi_similarity"),
        ("objects, split_seed = 2", "multi_similarity"),
    ]
    assert table(groups)[1][1][4] == ""


def test_a_report_is_read_before_an_earlier_comparison(make):
    folder = make("a", 0.5)
    after = {
        "recall_at_k": {"1": 0.25, "2": 0.5},
        "map_at_r": 0.125,
        "intervals": {"recall_at_1": [0.2, 0.3], "map_at_r": [0.1, 0.2], "mrr": [0.0, 1.0]},
    }
    (folder / "result.json").write_text(json.dumps({"results": {"after": after}}))
    assert read_runs([folder], quiet)[0].figures == {
        "recall_at_1": (0.25, 0.2, 0.3),
        "map_at_r": (0.125, 0.1, 0.2),
    }


@pytest.mark.parametrize("name", ["result.json", "test.json"])
@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"results": {"after": 3}}', '{"figures": {}}'])
def test_figures_that_cannot_be_read_are_said(make, capsys, name, text):
    folder = make("a", 0.5)
    (folder / name).write_text(text)
    assert command(["compare", str(folder)]) == 1
    said = capsys.readouterr().err
    assert f"{name} does not hold the figures of a test; delete it" in said
    assert "should not happen" not in said


def test_a_configuration_with_a_typing_error_names_its_run(make, capsys):
    folder = make("a", 0.5)
    (folder / "config.toml").write_text("[train]\nstps = 3\n")
    assert command(["compare", str(make("b", 0.5)), str(folder)]) == 2
    assert f"{folder}: config.toml: unknown key 'train.stps'" in capsys.readouterr().err


def test_what_cannot_be_compared_is_said(make, tmp_path, capsys):
    folder = make("a", 0.5)
    with pytest.raises(CheckpointError, match="are the same setting with the same seed 1"):
        group(read_runs([folder, make("b", 0.6)], quiet))
    unfinished = make("c", 0.5)
    (unfinished / "model").rmdir()
    with pytest.raises(CheckpointError, match=r"is not finished; go on with: nearfar train .* --resume"):
        read_runs([unfinished], quiet)
    assert command(["compare", str(tmp_path / "nothing")]) == 1
    assert "is not the folder of a run" in capsys.readouterr().err
    assert command(["compare", str(folder), "-o", "page.html"]) == 1
    assert "give a name that ends in .md" in capsys.readouterr().err


def test_page_picture_and_numbers_say_the_same(make, tmp_path, capsys):
    folders = [make(f"{name}{seed}", 0.4 + seed / 50, f"loss.name={name}", f"train.seed={seed}")
               for name in ("supcon", "contrastive") for seed in (1, 2)]  # fmt: skip
    page = tmp_path / "out" / "losses.md"
    assert command(["compare", *map(str, folders), "-o", str(page), "--title", "Losses", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    groups = group(read_runs(folders, quiet))
    assert told == numbers(groups) == json.loads(page.with_suffix(".json").read_text())
    assert page.read_text() == markdown(groups, "Losses", "losses.svg")
    assert page.with_suffix(".svg").read_text() == draw(groups)
    for titles_or_row in (table(groups)[0], *table(groups)[1]):
        assert len(titles_or_row) == 7
    assert "43.0 (30.3 to 55.7)" in page.read_text()
    svg = page.with_suffix(".svg").read_text()
    assert "43.0" in svg
    whiskers = [
        {name: float(value) for name, value in re.findall(r'([xy][12])="([-\d.]+)"', line)}
        for line in re.findall(r"<line[^>]*whisker[^>]*>", svg)
    ]
    means = [float(x) for x in re.findall(r'<circle[^>]*?cx="([\d.]+)"[^>]*class="mean"', svg)]
    means = means or [float(x) for x in re.findall(r'class="mean"[^>]*?cx="([\d.]+)"', svg)]
    assert len(whiskers) == len(means) == 2
    for line, mean in zip(whiskers, means, strict=True):
        assert (line["x1"] + line["x2"]) / 2 == pytest.approx(mean, abs=0.02)
        assert line["x2"] - line["x1"] > 100


def test_a_run_without_figures_is_tested_once(make, monkeypatch):
    import nearfar.report.compare as module

    folder = make("a", 0.5)
    (folder / "test.json").unlink()
    random = np.random.default_rng(0)
    asked = []

    class Model:
        preprocess = Preprocess(8)

        def to(self, _device):
            return self

        def encode(self, seen, *, head):
            assert head
            asked.append(len(seen))
            return torch.from_numpy(random.normal(size=(len(seen), 4)).astype(np.float32))

    monkeypatch.setattr(module.Embedder, "load", staticmethod(lambda _folder: Model()))
    first = read_runs([folder], quiet)[0]
    monkeypatch.setattr(module.Embedder, "load", None)
    again = read_runs([folder], quiet)[0]
    assert first == again
    assert sum(asked) == 704
    assert first.seen.to_dict() == {
        "kind": "unknown", "classes": 88, "seen": None, "images": 704, "images_learned_from": 0
    }  # fmt: skip
    assert not math.isnan(first.figures["recall_at_1"][0])
