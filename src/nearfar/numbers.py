"""Numbers as callers have them: Python's, numpy's, and torch's of no dimension. Truth values are none."""

import math
import operator
from typing import Any


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


def _scalar(value: Any) -> bool:
    """Whether it is of no dimension, of a type of numbers and wants no gradient."""
    if isinstance(value, bool | complex | str | bytes) or getattr(value, "ndim", 0):
        return False
    kind = str(getattr(value, "dtype", ""))
    return not (
        "bool" in kind or "complex" in kind or "str" in kind or getattr(value, "requires_grad", False)
    )
