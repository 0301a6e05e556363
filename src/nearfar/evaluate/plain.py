"""Results as plain Python values that JSON and TOML take, and as text in a notebook."""

import html
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain_numbers(value: Any) -> Any:
    """Return numpy's numbers as Python's, arrays as lists, keys as text; NaN and infinity are left out.

    Neither has a form in JSON, and None has none in TOML.
    """
    if isinstance(value, Mapping):
        plain = {str(key): plain_numbers(each) for key, each in value.items()}
        return {key: each for key, each in plain.items() if not _endless(each)}
    if isinstance(value, np.ndarray | np.generic):
        return plain_numbers(value.tolist())
    return [plain_numbers(each) for each in value] if isinstance(value, list | tuple) else value


def _endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def as_html(result: object) -> str:
    """What ``str`` says, for a notebook."""
    return f"<pre>{html.escape(str(result))}</pre>"
