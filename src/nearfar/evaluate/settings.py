"""Settings of an evaluation: whole numbers, shares and cut-offs, from Python, numpy or torch."""

import math
from collections.abc import Iterable
from typing import Any

from nearfar.errors import NearfarError
from nearfar.numbers import number
from nearfar.printable import quoted

LARGEST = 2**31 - 1


def whole_number(
    value: Any, name: str, least: int, *, most: int = LARGEST, ask: str = "use a whole number"
) -> int:
    """Return ``value`` as an int.

    Raises:
        NearfarError: if it is none, or not from ``least`` to ``most``.
    """
    found = as_whole(value)
    if found is None or not least <= found <= most:
        limits = f"{least} or more" if most == LARGEST else f"{least} to {most}"
        raise NearfarError(f"{name} is {quoted(value)}; {ask}, {limits}.")
    return found


def perhaps_whole(value: Any, name: str, least: int) -> int | None:
    """As ``whole_number``, or None where nothing was given."""
    return None if value is None else whole_number(value, name, least)


def share(value: Any, name: str, *, most: float = 1.0) -> float:
    """Return ``value`` as a float.

    Raises:
        NearfarError: if it is no number from 0 to ``most``.
    """
    found = number(value)
    if found is None or not 0 <= found <= most:
        limits = "0 or a positive number" if most == math.inf else f"a number from 0 to {most:g}"
        raise NearfarError(f"{name} is {quoted(value)}; use {limits}.")
    return float(found)


def cut_offs(ks: Any) -> tuple[int, ...]:
    """Return the cut-offs of metrics at k in rising order, each once.

    Raises:
        NearfarError: if there is none, or one is no whole number from 1.
    """
    several = isinstance(ks, Iterable) and not isinstance(ks, str) and getattr(ks, "ndim", 1) > 0
    given = list(ks) if several else []
    numbers = [as_whole(k) for k in given]
    if not numbers or any(k is None or not 1 <= k <= LARGEST for k in numbers):
        raise NearfarError(f"ks is {quoted(ks)}; cut-offs are whole numbers from 1, such as (1, 2, 4, 8).")
    return tuple(sorted({k for k in numbers if k is not None}))


def as_whole(value: Any) -> int | None:
    """The whole number that ``value`` is, if it is one; so is 5.0."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None
