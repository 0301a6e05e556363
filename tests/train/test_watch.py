"""Warnings come when something lasts, once, in words that say what to do."""

from dataclasses import replace

import pytest
import torch

import nearfar
from nearfar.train.watch import PATIENCE, StepNumbers, TrainingDiverged, Watch, spread

GOOD = StepNumbers(
    loss=0.1, active=0.5, positive_similarity=0.8, negative_similarity=0.1, spread=0.7, gradient_norm=1.0
)
COLLAPSE = replace(GOOD, spread=3e-4, positive_similarity=1.0, negative_similarity=1.0)


def texts(*numbers: StepNumbers, margin: float | None = None) -> list[str]:
    told: list[str] = []
    watch = Watch({"margin": margin}, told.append)
    for step, item in enumerate(numbers):
        watch.look(step, item)
    return told


def test_good_numbers_are_silent() -> None:
    assert texts(*[GOOD] * 200, margin=0.2) == []


def test_collapse_once_after_its_patience() -> None:
    assert texts(*[COLLAPSE] * (PATIENCE["collapse"] - 1)) == []
    assert texts(*[COLLAPSE] * 40) == [
        "all embeddings are nearly alike (spread 0.0003), so nothing is learned; lower optimizer.lr, raise "
        "optimizer.warmup_epochs or use loss.mining = 'semi_hard'."
    ]


def test_a_good_step_starts_the_count_again() -> None:
    run = [COLLAPSE] * (PATIENCE["collapse"] - 1)
    assert texts(*run, GOOD, *run) == []


def test_loss_at_its_margin() -> None:
    standing = replace(GOOD, loss=0.2001, positive_similarity=0.31, negative_similarity=0.30)
    assert texts(*[standing] * PATIENCE["margin"], margin=0.2) == [
        "the loss (0.2) stands at its margin (0.2): positives (similarity 0.31) are no nearer than negatives "
        "(0.30); lower optimizer.lr or use loss.mining = 'semi_hard'."
    ]
    assert texts(*[replace(GOOD, loss=0.2001)] * 99, margin=0.2) == []


def test_the_default_margin_is_watched() -> None:
    assert Watch(nearfar.losses.create("triplet").settings, print)._margin == 0.2


def test_positives_no_nearer_than_negatives() -> None:
    flat = replace(GOOD, positive_similarity=0.3, negative_similarity=0.3)
    (text,) = texts(*[flat] * 99)
    assert text.startswith(
        "positives (similarity 0.30) are still no nearer than negatives (0.30); check the labels"
    )


def test_no_positive_pair() -> None:
    (text,) = texts(*[replace(GOOD, positive_similarity=float("nan"))] * 99)
    assert text.startswith("the batches have no positive pair, so nothing pulls; check the labels")


@pytest.mark.parametrize("field", ["loss", "gradient_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_stops(field: str, value: float) -> None:
    with pytest.raises(
        TrainingDiverged, match=r"is not finite at step 0, .* the last checkpoint is intact\."
    ):
        texts(replace(GOOD, **{field: value}))


def test_a_memory_that_has_drifted() -> None:
    told: list[str] = []
    watch = Watch({}, told.append)
    for drift in (0.5, 0.5, 0.95, *[0.47] * 20):
        watch.look_at_memory(drift)
    assert told == [
        "the embeddings in memory are not what the network makes now (cosine 0.47), and pushing against them "
        "does harm; raise memory.start_after, lower optimizer.lr or make memory.size smaller."
    ]


def test_counts_go_on_after_a_resume() -> None:
    told: list[str] = []
    first = Watch({}, told.append)
    for step in range(PATIENCE["collapse"] - 1):
        first.look(step, COLLAPSE)
    second = Watch({}, told.append)
    second.load_state_dict(first.state_dict())
    second.look(99, COLLAPSE)
    assert len(told) == 1


def test_spread() -> None:
    assert spread(torch.ones(4, 3)).item() == 0.0
    axes = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert spread(axes).item() == pytest.approx(1.0)
    assert spread(axes[[0, 2]]).item() == pytest.approx(0.5)


def test_ties_once() -> None:
    told: list[str] = []
    watch = Watch({}, told.append)
    for tied in (0.005, 0.2, 0.3):
        watch.look_at_ties(tied)
    assert told == [
        "20% of the validation images have a right and a wrong neighbour at exactly the same similarity; look for "
        "duplicate images or a collapse."
    ]
