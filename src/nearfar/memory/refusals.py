"""What a memory refuses, in one sentence each: settings that make no sense, batches that do not fit."""

from typing import Any, Literal, NoReturn, get_args

import torch
from torch import Tensor

from nearfar.distributed import rank, world_size
from nearfar.errors import NearfarError, suggest
from nearfar.inputs import check_embeddings, relate, shown
from nearfar.numbers import number, whole_number
from nearfar.printable import quoted
from nearfar.similarity import Relevance

Combine = Literal["together", "sum", "memory"]
Enqueue = Literal["after", "before"]


MOST = 2**40
"""Embeddings, steps or dimensions beyond which a number can only be a mistake."""


def check_settings(
    size: Any, start_after: Any, dim: Any, dtype: Any, combine: str, weight: Any, enqueue: str
) -> tuple[int, int, int | None, float]:
    """Refuse settings of a memory that make no sense; return its numbers, as Python's.

    Raises:
        NearfarError: if one does.
    """
    size, start_after = (
        _counted(name, value, least)
        for name, value, least in (("size", size, 1), ("start_after", start_after, 0))
    )
    dim = None if dim is None else _counted("dim", dim, 1)
    for name, word, known in (
        ("combine", combine, list(get_args(Combine))),
        ("enqueue", enqueue, list(get_args(Enqueue))),
    ):
        if word not in known:
            raise NearfarError(
                f"{name} {quoted(word)} is not one of {', '.join(known)}.{suggest(str(word), known)}"
            )
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise NearfarError(f"dtype of a memory must be a floating-point type; got {quoted(dtype)}.")
    given, weight = weight, number(weight)
    if weight is None or abs(weight) > MOST:
        raise NearfarError(
            f"weight of a memory must be a finite number of at most {MOST}; got {quoted(given)}."
        )
    if weight < 0 or (weight != 1.0 and combine != "sum"):
        raise NearfarError(
            f'weight must not be negative, and weighs the memory with combine="sum" alone; got {weight} '
            f"with combine={combine!r}."
        )
    if enqueue == "before" and combine == "together":
        raise NearfarError(
            "a batch stored before its loss would be among the candidates twice; set "
            'combine="sum" or combine="memory" with it, or enqueue="after".'
        )
    return size, start_after, dim, weight


def _counted(name: str, given: Any, least: int) -> int:
    value = whole_number(given)
    if value is None or not least <= value <= MOST:
        most = f", and at most {MOST}" if value is not None and value > MOST else ""
        raise NearfarError(
            f"{name} of a memory must be a whole number, {least} or more{most}; got {quoted(given)}."
        )
    return value


def check_dim(embeddings: Tensor, dim: int) -> None:
    """Refuse embeddings of another dimension than a memory was created for.

    Raises:
        NearfarError: if they are.
    """
    if embeddings.shape[1] != dim:
        raise NearfarError(
            f"this memory was created with dim={dim} but the embeddings have {embeddings.shape[1]} "
            f"dimensions; create it with dim={embeddings.shape[1]}."
        )


def check_batch(embeddings: Any, labels: Any, ids: Any, n: int | None = None) -> Tensor:
    """Refuse a batch that cannot be stored; return its labels.

    Args:
        n: rows of all ranks, where ``embeddings`` are those of this one.

    Raises:
        NearfarError: if shapes or types do not fit, or there is no label for each row.
    """
    if isinstance(labels, Relevance):
        raise NearfarError(
            "a memory keeps a label for each embedding, and Relevance only lists pairs within one batch; "
            "use classes [n] or tags [n, tag] with a memory."
        )
    here = check_embeddings(embeddings, "embeddings")
    relate(here if n is None else n, labels, ids=ids)
    return labels


def check_fit(
    embeddings: Tensor,
    labels: Tensor,
    ids: Tensor | None,
    stored: Tensor,
    stored_labels: Tensor,
    stored_ids: Tensor | None,
) -> None:
    """Refuse a batch that is of another kind than what is stored.

    Raises:
        NearfarError: if dimensions, the kind of labels, or ids on one side only do not fit.
    """
    if embeddings.shape[1] != stored.shape[1]:
        raise NearfarError(
            f"this memory holds embeddings of {stored.shape[1]} dimensions but the batch has "
            f"{embeddings.shape[1]}; call memory.clear() where the model has changed."
        )
    if labels.shape[1:] != stored_labels.shape[1:]:
        raise NearfarError(
            f"this memory holds labels of shape {list(stored_labels.shape)} but the batch has "
            f"{shown(labels)}; give every batch classes [n], or the same tags [n, tag]."
        )
    if (ids is None) != (stored_ids is None):
        raise NearfarError(
            f"this memory was filled {'without' if stored_ids is None else 'with'} ids; give ids=… with "
            "every batch or with none."
        )


def check_ranks(place: tuple[int, int]) -> None:
    """Refuse a memory that was dealt out to other ranks.

    Args:
        place: (rank, number of ranks) when it was.

    Raises:
        NearfarError: if these are others now.
    """
    if place != (rank(), world_size()):
        raise NearfarError(
            f"this sharded memory was filled as rank {place[0]} of {place[1]} and is used as rank {rank()} "
            f"of {world_size()}; take its state_dict() where it was filled, and load it here."
        )


def refuse_local() -> NoReturn:
    """Refuse a loss that would see one rank's part alone.

    Raises:
        NearfarError: always.
    """
    raise NearfarError(
        "this memory is sharded over ranks and across_ranks=False keeps a loss to the rows of one; create "
        "the loss with across_ranks=True, or the memory with sharded=False."
    )
