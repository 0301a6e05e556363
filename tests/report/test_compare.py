"""Runs side by side: seeds together, intervals, differences, names, and what is refused."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from nearfar.cli.app import run as command
from nearfar.config import Config
from nearfar.errors import CheckpointError
from nearfar.report.compare import STUDENT, group, mean_and_interval, read_runs
from nearfar.report.compare_page import draw, markdown, numbers, table


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
            "figures": {"recall_at_1": recall, "map_at_r": recall / 2},
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


def test_seeds_come_together_and_the_best_comes_first(make):
    folders = [
        make("a1", 0.50, "loss.name=supcon", "train.seed=1"),
        make("b1", 0.60, "loss.name=contrastive", "train.seed=1"),
        make("a2", 0.52, "loss.name=supcon", "train.seed=2", "data.workers=0"),
        make("b2", 0.66, "loss.name=contrastive", "train.seed=2"),
    ]
    groups = group(read_runs(folders, quiet))
    assert [(one.name, len(one.runs)) for one in groups] == [("contrastive", 2), ("supcon", 2)]
    assert groups[0].figure("recall_at_1")[0] == pytest.approx(0.63)
    ahead = groups[0].ahead_of(groups[1], "recall_at_1")
    assert ahead == pytest.approx(mean_and_interval([0.10, 0.14]))
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


def test_one_seed_keeps_the_interval_over_classes_and_shares_stay_shares(make):
    alone = group(read_runs([make("a", 0.5)], quiet))[0]
    assert alone.figure("recall_at_1") == pytest.approx((0.5, 0.4, 0.6))
    pair = [make("b", 0.02, "train.seed=1"), make("c", 0.3, "train.seed=2")]
    _, low, high = group(read_runs(pair, quiet))[0].figure("recall_at_1")
    assert low == 0.0
    assert high == 1.0


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
    assert "43.0" in page.with_suffix(".svg").read_text()


def test_a_run_without_figures_is_tested_once(make, monkeypatch):
    import nearfar.report.compare as module

    folder = make("a", 0.5)
    (folder / "test.json").unlink()
    config = Config.load(folder / "config.toml")
    vectors = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)

    class Model:
        def to(self, _device):
            return self

        def encode(self, test):
            assert len(test) == 12
            return vectors

    test = module.tables_of(config).test
    monkeypatch.setattr(module, "readable", lambda table, _config: table.select(np.arange(12)))
    monkeypatch.setattr(module.Embedder, "load", staticmethod(lambda _folder: Model()))
    first = read_runs([folder], quiet)[0]
    monkeypatch.setattr(module.Embedder, "load", None)
    again = read_runs([folder], quiet)[0]
    assert first == again
    assert len(test) > 12
    assert not math.isnan(first.figures["recall_at_1"][0])
