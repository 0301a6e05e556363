"""What a layer is handed: blobs checked at the door, axes counted as Caffe counts them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import NearfarError, suggest


def rows_of(features: Tensor, layer: str) -> Float[Tensor, "n dim"]:
    """Return a blob [N, ...] as N rows, in single precision at least.

    Raises:
        NearfarError: if it is no floating-point blob of two or more axes.
    """
    if not features.is_floating_point() or features.ndim < 2:
        raise NearfarError(
            f"{layer} takes features [N, ...] in floating point; got {list(features.shape)} of "
            f"{features.dtype}."
        )
    half = features.dtype in (torch.float16, torch.bfloat16)
    return (features.float() if half else features).flatten(1)


def classes_of(labels: Tensor, n: int, layer: str, *, single_precision: bool) -> Tensor:
    """Return the label blob as one class for each of n rows.

    Args:
        single_precision: take labels as Caffe holds them, in float32, where whole numbers above 2^24 run
            into each other; float32 is returned.

    Raises:
        NearfarError: if there is not one whole number for each row.
    """
    if labels.numel() != n:
        raise NearfarError(
            f"{layer} has {n} rows of features but {labels.numel()} labels; give one for each."
        )
    labels = labels.reshape(n)
    if single_precision:
        return labels.float()
    if labels.is_floating_point() and not bool((labels == labels.round()).all()):
        raise NearfarError(
            f"{layer} takes whole numbers as labels; got {labels[labels != labels.round()][0]}."
        )
    return labels.long()


def numbered(labels: Tensor) -> Int[Tensor, " n"]:
    """Number classes 0, 1, 2, … where they are given in floating point."""
    return torch.unique(labels, return_inverse=True)[1] if labels.is_floating_point() else labels


def axis_of(axis: int, blob: Tensor, *, end: bool = False) -> int:
    """Return an axis counted from the front; a negative one counts from the back.

    Args:
        end: whether the place behind the last axis counts too.

    Raises:
        NearfarError: if the blob has no such axis.
    """
    limit = blob.ndim + end
    if not -limit <= axis < limit:
        raise NearfarError(
            f"axis {axis} is out of range for a {blob.ndim}-D blob of shape {list(blob.shape)}."
        )
    return axis % limit


def check_word(layer: str, setting: str, word: str, known: tuple[str, ...]) -> None:
    """Refuse a word that a setting does not know.

    Raises:
        NearfarError: with the words it knows.
    """
    if word not in known:
        hint = suggest(str(word).upper(), list(known))
        raise NearfarError(f"{layer}: {setting} {word!r} is not one of {', '.join(known)}.{hint}")
