"""Label -1: what data sets write where a label is missing, and a class like others unless it is said."""

import warnings
from typing import Any

MISSING = -1


def warn_of_missing(labels: Any, wrong: str, where: str, stacklevel: int = 3) -> bool:
    """Warn of labels -1, and count them; return whether there are any.

    Args:
        labels: classes, of numpy or torch.
        wrong: what becomes of their rows.
        where: what takes ``unlabelled``.
    """
    if labels.ndim != 1 or str(labels.dtype).split(".")[-1][:3] != "int":
        return False
    count = int((labels == MISSING).sum())
    if count:
        warnings.warn(missing(count, len(labels), wrong, where), stacklevel=stacklevel)
    return count > 0


def missing(count: int, n: int, wrong: str, where: str) -> str:
    """Say that ``count`` of ``n`` labels are missing; see ``warn_of_missing``."""
    return (
        f"{count} of {n} labels are {MISSING}, which data sets write for a label that is missing, and "
        f"{wrong}; give {where} unlabelled={MISSING} to leave them out."
    )
