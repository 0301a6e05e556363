"""Learning rates against numbers worked by hand."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.config import Optimizer
from nearfar.train.schedule import Schedule, cosine, falls, inverse, polynomial, staircase, warm_up


def test_warm_up() -> None:
    assert [warm_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warm_up(0, 0) == 1.0


def test_cosine() -> None:
    expected = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0, 0.0]
    assert [cosine(step, 4) for step in range(6)] == pytest.approx(expected)


def test_staircase() -> None:
    assert [staircase(step, 2, 0.1) for step in range(5)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_falls() -> None:
    assert [falls(step, (2, 3, 5), 0.5) for step in range(7)] == [1, 1, 0.5, 0.25, 0.25, 0.125, 0.125]


def test_inverse() -> None:
    assert [inverse(step, 0.5, 2.0) for step in range(4)] == pytest.approx([1, 4 / 9, 1 / 4, 4 / 25])
    assert inverse(10_000, 1e-4, 0.75) == pytest.approx(2**-0.75)


def test_polynomial() -> None:
    expected = [1, math.sqrt(0.75), math.sqrt(0.5), 0.5, 0, 0]
    assert [polynomial(step, 4, 0.5) for step in range(6)] == pytest.approx(expected)


def test_cosine_with_warm_up() -> None:
    schedule = Schedule("cosine", steps=6, warmup=2)
    expected = [0.5, 1.0, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert [schedule.factor(step) for step in range(6)] == pytest.approx(expected)


def test_step_falls_and_constant_never() -> None:
    schedule = Schedule("step", steps=8, every=4, gamma=0.5)
    assert [schedule.factor(step) for step in range(8)] == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]
    assert Schedule("constant", steps=8).factor(7) == 1.0


def test_weights_that_start_later_warm_up_then() -> None:
    schedule = Schedule("constant", steps=8, warmup=2)
    assert [schedule.factor(step, start=4) for step in (4, 5, 6)] == [0.5, 1.0, 1.0]


def test_a_run_that_only_warms_up() -> None:
    schedule = Schedule("cosine", steps=2, warmup=2)
    assert [schedule.factor(step) for step in range(2)] == [0.5, 1.0]


def test_all_but_the_cosine_fall_from_the_first_step_while_they_warm_up() -> None:
    schedule = Schedule("exp", steps=8, warmup=2, gamma=0.5)
    assert [schedule.factor(step) for step in range(4)] == [0.5, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "step", "step_epochs": 2, "gamma": 0.5}, [1, 1, 1, 1, 1, 1, 0.5, 0.5]),
        ({"schedule": "step", "step_size": 3, "gamma": 0.5}, [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]),
        ({"schedule": "multistep", "step_values": (1, 6), "gamma": 0.5}, [1, *[0.5] * 5, 0.25, 0.25]),
        ({"schedule": "exp", "gamma": 0.5}, [2.0**-t for t in range(8)]),
        ({"schedule": "inv", "gamma": 1.0, "power": 2.0}, [1 / (1 + t) ** 2 for t in range(8)]),
        ({"schedule": "poly"}, [1 - t / 8 for t in range(8)]),
        ({"schedule": "poly", "power": 2.0}, [(1 - t / 8) ** 2 for t in range(8)]),
        ({"schedule": "constant"}, [1] * 8),
    ],
)
def test_schedules_out_of_a_configuration(settings: dict, expected: list[float]) -> None:
    schedule = Schedule.of(Optimizer(warmup_epochs=0.0, **settings), steps=8, epoch=3)
    assert [schedule.factor(step) for step in range(8)] == pytest.approx(expected)


def test_warm_up_of_part_of_an_epoch() -> None:
    schedule = Schedule.of(Optimizer(schedule="constant", warmup_epochs=0.5), steps=16, epoch=8)
    assert [schedule.factor(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@given(
    kind=st.sampled_from(["cosine", "step", "multistep", "exp", "inv", "poly", "constant"]),
    steps=st.integers(1, 1000),
    warmup=st.integers(0, 1200),
    gamma=st.floats(1e-6, 1.0),
    power=st.floats(0.0, 5.0),
)
def test_factors_lie_between_0_and_1_and_fall_after_the_warm_up(
    kind: str, steps: int, warmup: int, gamma: float, power: float
) -> None:
    schedule = Schedule(kind, steps, warmup, every=7, values=(3, 9, steps + 10), gamma=gamma, power=power)
    factors = [schedule.factor(step) for step in range(steps)]
    assert all(0.0 <= factor <= 1.0 for factor in factors)
    after = factors[warmup:]
    assert all(b <= a for a, b in pairwise(after))
