"""What a caller hands over, checked at the door: one sentence for what does not fit."""

from typing import Any

import torch
from torch import Tensor

from nearfar.errors import NearfarError


def check_embeddings(x: Any, labels: Any, x_name: str, labels_name: str) -> None:
    """Refuse anything but floating-point [n, dim] with whole-number labels [n]."""
    for name, value in ((x_name, x), (labels_name, labels)):
        if not isinstance(value, Tensor):
            raise NearfarError(f"{name} must be a torch tensor; got {type(value).__name__}.")
    if x.ndim != 2 or not x.is_floating_point():
        raise NearfarError(f"{x_name} must be floating point of shape [n, dim]; got {shown(x)}.")
    check_whole_numbers(labels, len(labels) if labels.ndim else 0, labels_name)
    if len(x) != len(labels):
        raise NearfarError(
            f"{labels_name} has {len(labels)} rows but {x_name} has {len(x)}; "
            f"give one label for each {x_name.removesuffix('s')}."
        )


def check_whole_numbers(values: Any, count: int, name: str) -> None:
    """Refuse anything but ``count`` whole numbers."""
    if not isinstance(values, Tensor):
        raise NearfarError(f"{name} must be a torch tensor; got {type(values).__name__}.")
    if values.ndim != 1 or values.is_floating_point() or values.dtype == torch.bool:
        raise NearfarError(f"{name} must be whole numbers of shape [n]; got {shown(values)}.")
    if len(values) != count:
        raise NearfarError(f"{name} has {len(values)} rows but there are {count}; give one for each.")


def check_ids(ids: Any, count: int, candidate_ids: Any, candidate_count: int) -> None:
    """Refuse ids on one side only, since they would exclude nothing, and ids of the wrong length."""
    if (ids is None) != (candidate_ids is None):
        missing = "candidate_ids" if candidate_ids is None else "ids"
        raise NearfarError(f"ids and candidate_ids go together; {missing} is missing.")
    if ids is not None:
        check_whole_numbers(ids, count, "ids")
        check_whole_numbers(candidate_ids, candidate_count, "candidate_ids")


def check_own(own: Any, count: int, candidate_count: int) -> None:
    """Refuse own columns that are not rows of the candidates (-1 is none)."""
    if own is None:
        return
    check_whole_numbers(own, count, "own")
    if len(own) and (int(own.min()) < -1 or int(own.max()) >= candidate_count):
        raise NearfarError(
            f"own must be rows of the {candidate_count} candidates, or -1 for none; "
            f"got {int(own.min())} to {int(own.max())}."
        )


def shown(x: Tensor) -> str:
    """Return the shape and type of a tensor in words."""
    return f"{list(x.shape)} of {x.dtype}"
