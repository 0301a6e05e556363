"""Learning rates against numbers worked by hand."""

import math

import pytest

from nearfar.train.schedule import Schedule, cosine, staircase, warm_up


def test_warm_up() -> None:
    assert [warm_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warm_up(0, 0) == 1.0


def test_cosine() -> None:
    expected = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0, 0.0]
    assert [cosine(step, 4) for step in range(6)] == pytest.approx(expected)


def test_staircase() -> None:
    assert [staircase(epoch, 2, 0.1) for epoch in range(5)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine_with_warm_up() -> None:
    schedule = Schedule("cosine", steps_per_epoch=2, epochs=3, warmup_epochs=1.0)
    expected = [0.5, 1.0, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert [schedule.factor(step) for step in range(6)] == pytest.approx(expected)


def test_step_falls_at_epochs_and_constant_never() -> None:
    schedule = Schedule("step", steps_per_epoch=2, epochs=4, step_epochs=2, gamma=0.5)
    assert [schedule.factor(step) for step in range(8)] == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]
    assert Schedule("constant", steps_per_epoch=2, epochs=4).factor(7) == 1.0


def test_warm_up_of_part_of_an_epoch() -> None:
    schedule = Schedule("constant", steps_per_epoch=8, epochs=2, warmup_epochs=0.5)
    assert [schedule.factor(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_weights_that_start_later_warm_up_then() -> None:
    schedule = Schedule("constant", steps_per_epoch=2, epochs=4, warmup_epochs=1.0)
    assert [schedule.factor(step, start=4) for step in (4, 5, 6)] == [0.5, 1.0, 1.0]


def test_a_run_that_only_warms_up() -> None:
    schedule = Schedule("cosine", steps_per_epoch=2, epochs=1, warmup_epochs=1.0)
    assert [schedule.factor(step) for step in range(2)] == [0.5, 1.0]
