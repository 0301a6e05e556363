"""Advice on the length of a run names the setting that gave it."""

from typing import Any

import pytest

from nearfar.report.advice import advise

SUMMARY = {"similarity": {}, "confusions": [], "wrong_queries": 0}


def log_of(*scores: float) -> list[dict[str, Any]]:
    """Return the log of a run of ten steps an epoch, validated after each."""
    return [
        {
            "kind": "validation",
            "step": 10 * (i + 1),
            "epoch": i,
            "map_at_r": score,
            "best": score == max(scores),
        }
        for i, score in enumerate(scores)
    ]


def test_a_run_that_still_learned() -> None:
    log = log_of(0.1, 0.2, 0.3)
    (advice,) = advise(SUMMARY, log, {"train": {"epochs": 3}})
    assert advice.endswith("at epoch 3 of 3), so the model was still learning: set train.epochs to 6.")
    (advice,) = advise(SUMMARY, log, {"train": {"epochs": 20, "steps": 28}})
    assert advice.endswith("at epoch 3 of 3), so the model was still learning: set train.steps to 56.")


def test_a_run_that_was_best_early() -> None:
    log = log_of(0.3, 0.2, 0.1, 0.1)
    for length in ({"epochs": 4}, {"epochs": 1, "steps": 40}):
        (advice,) = advise(SUMMARY, log, {"train": length})
        assert advice.startswith("Validation was best at epoch 1 of 4 (MAP@R 30")


def test_a_validation_that_is_always_perfect_did_not_fall() -> None:
    for scores in ((1.0, 1.0, 1.0, 1.0), (0.9, 1.0, 1.0, 1.0), (1.0, 1.0, 0.9, 0.9)):
        log = log_of(*scores)
        (advice,) = advise(SUMMARY, log, {"train": {"epochs": 4}})
        assert advice.startswith("Validation reached MAP@R 100")
        assert "fell" not in advice
        assert "still learning" not in advice


def test_an_early_best_that_was_reached_again_did_not_fall() -> None:
    log = [{**line, "best": line["epoch"] == 0} for line in log_of(0.3, 0.2, 0.1, 0.3)]
    assert advise(SUMMARY, log, {"train": {"epochs": 4}}) == []


@pytest.mark.parametrize(
    ("loss", "named"),
    [
        ({"name": "triplet"}, True),
        ({"name": "multi_similarity", "mining": "hard"}, True),
        ({"name": "triplet", "mining": "semi_hard"}, False),
        ({"name": "triplet", "mining": {"name": "semi_hard", "margin": 0.1}}, False),
        ({"name": "arcface"}, False),
        ({"name": "proxy_anchor"}, False),
    ],
)
def test_a_collapse_names_a_rule_that_the_loss_takes_and_lacks(loss: dict[str, Any], named: bool) -> None:
    collapsed = SUMMARY | {"similarity": {"after": {"negative_mean": 0.9, "overlap": 0.0}}}
    (advice,) = advise(collapsed, [], {"loss": loss, "optimizer": {"lr": 0.002}})
    assert "lower optimizer.lr from 0.002 to 0.0002" in advice
    assert ("or let loss.mining choose 'semi_hard'." in advice) == named
