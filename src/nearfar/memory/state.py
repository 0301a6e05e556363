"""What a memory saves: tensors under names, always as many, and as large once it knows what rows are like.

They are copies, and no buffers: no average of weights, broadcast or conversion of a module can change what is
stored, and a state that is kept stays what it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.similarity.stable import full_precision

ROWS = ("embeddings", "inverse", "labels", "ids", "made")
"""What there is for each slot."""
DEALT = ("embeddings", "inverse", "made")
"""Of this, that of which each rank of a sharded memory has its part."""
COUNTED = ("added", "step", "cursor")
NAMES = (*ROWS, "with_ids", *COUNTED)
OLDER = "_extra_state"
"""Where versions up to 0.1.0 saved all of it, as one mapping."""


@dataclass
class Like:
    """What the rows of a memory are like, so that one without rows saves tensors of the same shapes.

    Copies of an empty memory, such as weight averages begin with, share this: they learn it from the first
    batch that one of them takes in.

    Attributes:
        dim: dimensions of embeddings; 0 while it is not known.
        dtype: of embeddings.
        tags: shape of a label: () for classes.
        seen: whether there has been a batch; before, ``dim`` is what was asked for.
    """

    dim: int = 0
    dtype: torch.dtype = torch.float32
    tags: tuple[int, ...] = ()
    seen: bool = False

    def __deepcopy__(self, _: object) -> "Like":
        return self

    def rows(self, size: int, held: int, near: torch.device, device: torch.device) -> dict[str, Tensor]:
        """Make room for rows.

        Args:
            size: how many slots there are.
            held: how many of their embeddings lie here.
            near: where labels and ids lie.
            device: where embeddings lie.
        """
        rows = torch.zeros(held, self.dim, dtype=self.dtype, device=device)
        kind = torch.bool if self.tags else torch.long
        return {
            "embeddings": rows,
            "inverse": torch.zeros(held, dtype=full_precision(rows[:0]).dtype, device=device),
            "labels": torch.zeros(size, *self.tags, dtype=kind, device=near),
            "ids": torch.full((size,), -1, device=near),
            "made": torch.full((held,), -1, device=near),
        }


def take_out(state: dict[str, Any], prefix: str) -> tuple[dict[str, Any], list[str]]:
    """Take a memory's own part out of a state, of this version or of an older one; and what is missing."""
    older = state.pop(prefix + OLDER, None)
    if isinstance(older, Mapping):
        return dict(older), []
    found = {name: state.pop(prefix + name) for name in NAMES if prefix + name in state}
    return found, [prefix + name for name in NAMES if name not in found]


def read(found: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return what ``NAMES`` say, None for what is not there: an empty memory has no rows.

    Raises:
        NearfarError: if the state is that of a memory of another size.
    """
    saved = found["embeddings"]
    if saved is not None and len(saved) != size:
        raise NearfarError(
            f"this memory has size {size} but the saved one has {len(saved)}; create it with "
            "the same size, or begin with an empty one."
        )
    counted: dict[str, Any] = {name: int(found[name]) for name in COUNTED}
    if saved is None or not counted["added"]:
        return {**dict.fromkeys(ROWS), **counted}
    rows: dict[str, Any] = {name: found[name] for name in ROWS}
    if not found.get("with_ids", True):
        rows["ids"] = None
    return {**rows, **counted}
