"""What a loss is asked to be, beside its own settings: words, shares and counts, read as Python's own."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from nearfar.errors import NearfarError, suggest
from nearfar.losses.parts.terms import Reduction
from nearfar.numbers import number, whole_number
from nearfar.printable import quoted
from nearfar.similarity import Measure

MOST_DIM = 2**24
MOST_CLASSES = 2**31
MOST_TILT = 1e4


def check_words(similarity: Any, reduction: Any, switches: Mapping[str, Any]) -> None:
    """Refuse words that are not known.

    Raises:
        NearfarError: if one is not.
    """
    for word, value, known in [
        ("similarity", similarity, list(get_args(Measure))),
        ("reduction", reduction, [None, *get_args(Reduction)]),
    ]:
        if not isinstance(value, str | None) or value not in known:
            options = [option for option in known if option is not None]
            raise NearfarError(
                f"{word} {quoted(value)} is not one of {', '.join(options)}.{suggest(value, options)}"
            )
    for word, value in switches.items():
        if not isinstance(value, bool):
            raise NearfarError(f"{word} must be True or False; got {quoted(value)}.")


def read_tilt(tilt: Any, reduction: Reduction) -> float:
    """Return t of ``reduction="tilted"``.

    Raises:
        NearfarError: if it is 0 or no number, or belongs to another reduction.
    """
    found = number(tilt)
    if not found or abs(found) > MOST_TILT:
        raise NearfarError(
            f"tilt must be above or below 0, at most {MOST_TILT:g} away from it; got {quoted(tilt)}. "
            "For 0, use reduction='mean_valid'."
        )
    if found != 1 and reduction != "tilted":
        raise NearfarError(f"tilt is of reduction='tilted'; this loss has reduction={reduction!r}.")
    return found


def read_share(sample: Any) -> float:
    """Return the share of the classes that a step compares with.

    Raises:
        NearfarError: if it is none.
    """
    found = number(sample)
    if found is None or not 0 < found <= 1:
        raise NearfarError(f"sample is a share of the classes, above 0 and at most 1; got {quoted(sample)}.")
    return found


def read_dim(dim: Any) -> int:
    """Return the dimension of embeddings.

    Raises:
        NearfarError: if it is none.
    """
    found = whole_number(dim)
    if found is None or not 1 <= found <= MOST_DIM:
        raise NearfarError(
            f"dim must be the dimension of the embeddings, a whole number from 1 to {MOST_DIM}; got "
            f"{quoted(dim)}."
        )
    return found


def read_mark(unlabelled: Any) -> int:
    """Return the label that stands for none.

    Raises:
        NearfarError: if it is no label.
    """
    found = whole_number(unlabelled)
    if found is None or not -(2**63) <= found < 2**63:
        raise NearfarError(
            f"unlabelled must be a label, a whole number such as -1; got {quoted(unlabelled)}."
        )
    return found


def read_classes(name: str, classes: int | Sequence[int] | Tensor, unlabelled: int | None = None) -> Tensor:
    """Return labels, each once and in order, from those of the training set or from their count.

    Args:
        unlabelled: the one that stands for none.

    Raises:
        NearfarError: if they are no whole numbers, or fewer than two.
    """
    count = whole_number(classes)
    if count is not None and count > MOST_CLASSES:
        raise NearfarError(f"{name} was asked for {quoted(count)} classes; it takes {MOST_CLASSES} at most.")
    labels = torch.arange(max(0, count)) if count is not None else _each_once(classes)
    if labels is None:
        raise NearfarError(
            f"classes of {name} must be labels (whole numbers) or their count; got {quoted(classes)}."
        )
    if unlabelled is not None and count is None:
        labels = labels[labels != unlabelled]
    if len(labels) < 2:
        raise NearfarError(f"{name} needs two classes or more; got {len(labels)}.")
    return labels.long()


def _each_once(classes: Any) -> Tensor | None:
    try:
        found = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        return None
    return found.unique()
