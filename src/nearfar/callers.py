"""Who called the package: where a warning is said to come from."""

import sys

OURS = ("nearfar", "torch")


def level() -> int:
    """Return the ``stacklevel`` with which the caller of this warns the code that called into the package."""
    frame, above = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in OURS:
        frame, above = frame.f_back, above + 1
    return above
