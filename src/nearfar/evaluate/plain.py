"""Results as plain Python values that JSON takes."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain_numbers(value: Any) -> Any:
    """Return numpy's numbers as Python's, arrays as lists, keys as text, and None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): plain_numbers(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain_numbers(value.tolist())
    if isinstance(value, list | tuple):
        return [plain_numbers(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
