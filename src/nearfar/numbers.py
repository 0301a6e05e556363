"""Numbers as callers have them: Python's, numpy's, and torch's of no dimension. Truth values are none."""

import math
import operator
from typing import Any

MOST_SHOWN = 100
"""Characters of a value that a sentence repeats."""


def whole_number(value: Any) -> int | None:
    """Return a whole number as Python's; None if it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if not _scalar(value):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def number(value: Any) -> int | float | None:
    """Return a finite number as Python's, whole if it is whole; None if no float can hold it."""
    whole = whole_number(value)
    if whole is None and not (isinstance(value, float) or (_scalar(value) and hasattr(value, "__float__"))):
        return None
    try:
        size = float(value if whole is None else whole)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    if not math.isfinite(size):
        return None
    return size if whole is None else whole


def brief(value: object) -> str:
    """Return a value as a sentence can repeat it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def _scalar(value: Any) -> bool:
    """Whether it is of no dimension, of a type of numbers and wants no gradient."""
    if isinstance(value, bool | complex | str | bytes) or getattr(value, "ndim", 0):
        return False
    kind = str(getattr(value, "dtype", ""))
    return not (
        "bool" in kind or "complex" in kind or "str" in kind or getattr(value, "requires_grad", False)
    )
