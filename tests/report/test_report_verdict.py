"""Where training made it worse, the first sentence, the page, result.json, the screen and the advice say so."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from drawn_pictures import noisy_means
from nearfar.report import Material, write_report
from nearfar.report.advice import advise
from nearfar.report.baselines import measure
from nearfar.report.summary import find, summarise
from nearfar.report.verdict import verdict, worse_than


def with_noise(material: Material, **noise: float) -> Material:
    """Return the material with embeddings as good as their noise is small."""
    embeddings = {kind: noisy_means(material.test.label, value) for kind, value in noise.items()}
    results = {kind: measure(rows, material.test) for kind, rows in embeddings.items()}
    return replace(material, embeddings=embeddings, results=results, train_pixels=None)


def test_worse_than_the_untrained_network(material, tmp_path):
    config = {"model": {"backbone": "nearfar/small", "pretrained": False}, "train": {"epochs": 4}}
    worse = replace(with_noise(material, pixels=3.0, before=0.6, after=2.0), config=config)
    path = write_report(worse, tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["worse_than"] == ["before"]
    assert "find the same class first: training made it worse (pixels alone" in result["sentence"]
    assert result["verdict"].startswith("Training made it worse than the untrained network: ")
    before, after = (result["results"][kind]["recall_at_k"]["1"] for kind in ("before", "after"))
    assert f"{100 * before:.1f}\u00a0% → {100 * after:.1f}\u00a0%." in result["verdict"]
    assert result["advice"][0].startswith(result["verdict"])
    assert "model.pretrained = true" in result["advice"][0]
    page = path.read_text(encoding="utf-8")
    assert page.count("Training made it worse than the untrained network") == 2  # head and advice
    assert "training made it worse" in re.search(r"<h1>.*?</h1>", page, re.S)[0]


def test_worse_than_pretrained_features(material):
    config = {"model": {"backbone": "resnet18", "pretrained": True}, "optimizer": {"lr": 1e-4}}
    worse = replace(with_noise(material, before=0.6, after=2.0), config=config)
    summary = summarise(worse, find(worse))
    assert "than the pretrained features that it began with" in summary["verdict"]
    assert "Lower optimizer.lr from 0.0001 to 1e-05" in summary["advice"][0]
    assert "head_only_epochs" in summary["advice"][0]


def test_worse_than_pixels_alone(material):
    worse = with_noise(material, pixels=0.6, before=3.0, after=2.0)
    summary = summarise(worse, find(worse))
    assert summary["worse_than"] == ["pixels"]
    assert "first, fewer than by pixels alone (pixels alone" in summary["sentence"]
    assert summary["verdict"].startswith("Raw pixels find more right pictures first than the trained model")


def test_better_is_not_called_worse(material):
    better = with_noise(material, pixels=3.0, before=2.0, after=0.6)
    summary = summarise(better, find(better))
    assert (summary["worse_than"], summary["verdict"]) == ([], None)
    assert "worse" not in summary["sentence"]
    equal = {kind: {"recall_at_k": {"1": 1.0}} for kind in ("pixels", "before", "after")}
    assert worse_than(equal) == []
    assert verdict(equal, pretrained=False) is None
    unknown = {"before": {"recall_at_k": {"1": float("nan")}}, "after": {"recall_at_k": {"1": 0.5}}}
    assert worse_than(unknown) == []


SUMMARY: dict[str, Any] = {"similarity": {}, "confusions": [], "wrong_queries": 0, "verdict": None}


def log_of(*scores: float | None) -> list[dict[str, Any]]:
    """Return the log of a run of ten steps an epoch, validated after each; a tie keeps the first."""
    best, log = -1.0, []
    for i, score in enumerate(scores):
        log.append({"kind": "validation", "step": 10 * (i + 1), "epoch": i, "map_at_r": score,
                    "best": score is not None and score > best})  # fmt: skip
        best = best if score is None else max(best, score)
    return log


@pytest.mark.parametrize(
    "scores",
    [(1.0,) * 8, (0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0), (0.999, 0.998, 0.997, 0.999, 0.998, 0.9985)],
)
def test_saturated_validation_did_not_fall(scores):
    (told,) = advise(SUMMARY, log_of(*scores), {"train": {"epochs": len(scores)}})
    assert "fell" not in told
    assert told.startswith(("Validation could not choose: its MAP@R", "Validation reached MAP@R 100"))
    assert "train.validate_on" in told


def test_what_fell_says_how_far_and_what_came_back_did_not_fall():
    (told,) = advise(SUMMARY, log_of(0.6, 0.5, 0.4, 0.3), {"train": {"epochs": 4}})
    assert "fell afterwards, to 30.0" in told
    assert advise(SUMMARY, log_of(0.6, 0.3, 0.4, 0.599), {"train": {"epochs": 4}}) == []
    assert advise(SUMMARY, log_of(None, None, None), {"train": {"epochs": 3}}) == []


def test_the_title_of_the_curves_tells_a_tie(material):
    from nearfar.report.sections import figures

    tied = replace(material, log=[*material.log[:1], *log_of(1.0, 1.0, 1.0)])
    summary = summarise(tied, find(tied))
    title = figures(tied, summary)["training"].title
    assert title == "Epoch 1 was kept: the first of 3 with the highest MAP@R of 100.0\u00a0% in validation"


def test_what_auto_chose_is_in_the_head_and_in_the_numbers(material, tmp_path):
    chosen = {"precision": "bfloat16", "device": "cpu", "backend": "tiled", "workers": 3, "size": 48}
    path = write_report(replace(material, run={**material.run, "chosen": chosen}), tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["chosen"] == chosen
    head = re.search(r'<p class="brand">.*?</p>', path.read_text(encoding="utf-8"), re.S)[0]
    assert "bfloat16, on cpu, backend tiled, 3 workers, pictures seen at 48 px" in head
