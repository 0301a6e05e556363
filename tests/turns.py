"""Combinations of settings, of which a test takes some in turns, and all of them where it is exhaustive."""

from collections.abc import Iterable, Mapping
from itertools import combinations, product
from typing import Any

import pytest


def in_turns(every: int, **axes: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrize by all combinations of values; those that ``chosen`` leaves out are exhaustive.

    Args:
        axes: values of each parameter, or what they are called and the values.
    """
    names, values = [], []
    for axis in axes.values():
        named = isinstance(axis, Mapping)
        values.append([*axis.values()] if named else [*axis])
        names.append([*axis] if named else [shown(value, place) for place, value in enumerate(values[-1])])
    kept = chosen(every, [len(some) for some in values])
    told = []
    for places in product(*(range(len(some)) for some in values)):
        given = [some[place] for some, place in zip(values, places, strict=True)]
        called = "-".join(some[place] for some, place in zip(names, places, strict=True))
        marks = () if places in kept else pytest.mark.exhaustive
        told.append(pytest.param(*given, id=called, marks=marks))
    return pytest.mark.parametrize(tuple(axes), told)


def shown(value: Any, place: int) -> str:
    """What a value is called."""
    text = str(getattr(value, "__name__", value))
    return text if len(text) < 40 else str(place)


def chosen(every: int, lengths: list[int]) -> set[tuple[int, ...]]:
    """The places whose sum is a multiple of ``every``: among them is each value with each of every other axis."""
    kept = {places for places in product(*map(range, lengths)) if sum(places) % every == 0}
    together = min(2, len(lengths) - 1)
    for some in combinations(range(len(lengths)), together):
        found = {tuple(places[axis] for axis in some) for places in kept}
        wanted = {*product(*(range(lengths[axis]) for axis in some))}
        assert found == wanted, f"one in {every} is too few: some values would not meet"
    return kept
