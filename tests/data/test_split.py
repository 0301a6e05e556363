"""Splits keep classes apart."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.data import Table, split_by_class, train_and_test
from nearfar.errors import DataError


def table_of(labels: list[int], **columns: list) -> Table:
    classes = tuple(f"class {label}" for label in range(max(labels, default=0) + 1))
    paths = np.array([f"/{row}.png" for row in range(len(labels))], dtype=object)
    return Table(
        paths, np.array(labels, dtype=np.int64), classes, {k: np.array(v) for k, v in columns.items()}
    )


@given(
    st.lists(st.integers(0, 30), min_size=2).filter(lambda labels: len(set(labels)) > 1),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
@settings(deadline=None)
def test_every_image_once_and_no_class_twice(labels: list[int], fraction: float, seed: int) -> None:
    table = table_of(labels)
    first, rest = split_by_class(table, fraction, seed)
    assert sorted([*first.path, *rest.path]) == sorted(table.path)
    assert not set(first.label) & set(rest.label)
    classes = len(set(labels))
    assert first.class_count() == min(max(int(fraction * classes + 0.5), 1), classes - 1)


def test_the_draw_is_fixed_for_ever() -> None:
    # Published splits rest on it: a change here breaks every comparison with a figure reported before.
    first, _ = split_by_class(table_of(list(range(10))), 0.5, seed=0)
    assert [first.classes[label] for label in first.label] == [
        f"class {number}" for number in (0, 2, 6, 7, 8)
    ]


def test_the_seed_matters_and_the_order_of_rows_does_not() -> None:
    table = table_of(list(range(40)))
    first, _ = split_by_class(table, seed=0)
    other, _ = split_by_class(table, seed=1)
    assert first.label.tolist() != other.label.tolist()
    shuffled = table.select(np.random.default_rng(0).permutation(40))
    again, _ = split_by_class(shuffled, seed=0)
    assert sorted(again.path) == sorted(first.path)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, 2.0])
def test_a_fraction_outside(fraction: float) -> None:
    with pytest.raises(DataError, match="fraction must lie between 0 and 1"):
        split_by_class(table_of([0, 1]), fraction)


def test_one_class_cannot_be_split() -> None:
    with pytest.raises(DataError, match="cannot split 1 class by class"):
        split_by_class(table_of([0, 0]))


def test_train_and_test_by_column_leaves_validation_out() -> None:
    table = table_of([0, 0, 1, 2, 3], split=["train", "train", "train", "validation", "test"])
    train, test = train_and_test(table)
    assert (train.label.tolist(), test.label.tolist()) == ([0, 0, 1], [3])


def test_train_and_test_without_column_is_half_and_half() -> None:
    train, test = train_and_test(table_of([0, 1, 2, 3]), seed=3)
    expected = split_by_class(table_of([0, 1, 2, 3]), 0.5, 3)
    assert (train.path.tolist(), test.path.tolist()) == (
        expected[0].path.tolist(),
        expected[1].path.tolist(),
    )


def test_an_empty_part() -> None:
    with pytest.raises(DataError, match=r"no image has split 'test'; found \['train'\]"):
        train_and_test(table_of([0, 1], split=["train", "train"]))


def test_a_class_in_both_parts_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "nearfar"):
        train_and_test(table_of([0, 1, 1], split=["train", "train", "test"]))
    assert "classes in both train and test: 1" in caplog.text
