"""The slots of a memory: what they hold when it is new, and which of them rows go to."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.similarity.stable import full_precision


def new_slots(
    x: Tensor,
    labels: Tensor,
    *,
    size: int,
    held: int,
    ids: bool,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """Make room for rows like ``x`` with labels like ``labels``.

    Args:
        held: of ``size`` embeddings, those that are held here.
        ids: whether rows have one each.
        device, dtype: of the embeddings; None is that of ``x``.
    """
    near = labels.device
    rows = torch.zeros(held, x.shape[1], dtype=dtype or x.dtype, device=device or x.device)
    kind = torch.long if labels.ndim == 1 else torch.bool
    return {
        "embeddings": rows,
        "inverse": torch.zeros(held, dtype=full_precision(rows[:0]).dtype, device=rows.device),
        "labels": torch.zeros(size, *labels.shape[1:], dtype=kind, device=near),
        "ids": torch.full((size,), -1, device=near) if ids else None,
        "made": torch.full((held,), -1, device=near),
    }


def next_slots(count: int, size: int, added: int, device: torch.device) -> Int[Tensor, " new"]:
    """Return the slots that ``count`` new rows (or the last ``size`` of them) go to.

    Args:
        added: how many rows came before.
    """
    held = min(count, size)
    return torch.arange(added + count - held, added + count, device=device) % size


def next_slots_of_paper(
    count: int, size: int, cursor: int, device: torch.device
) -> tuple[Int[Tensor, " new"], int]:
    """Return the slots that ``count`` new rows go to in the paper's code, and its next cursor.

    Raises:
        NearfarError: if they are more than there are slots.
    """
    if count > size:
        raise NearfarError(
            f"xbm_compat cannot store a batch of {count} rows in a memory of {size}; "
            "make the memory larger, or leave xbm_compat off."
        )
    fits = cursor + count <= size
    first = cursor if fits else size - count
    return torch.arange(first, first + count, device=device), cursor + count if fits else 0


def inverse_lengths(rows: Float[Tensor, "row dim"]) -> Float[Tensor, " row"]:
    """Return 1 / |row|, 0 for a zero row."""
    length = torch.linalg.vector_norm(full_precision(rows), dim=1)
    zero = length == 0
    return length.masked_fill(zero, 1.0).reciprocal().masked_fill(zero, 0.0)
