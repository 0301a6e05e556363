"""The slots of a memory: what they hold when it is new, and which of them rows go to."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nearfar.distributed import rank, world_size
from nearfar.errors import NearfarError
from nearfar.memory import ranks
from nearfar.memory.refusals import check_ranks
from nearfar.similarity import stable
from nearfar.similarity.stable import full_precision

KEPT = ("embeddings", "inverse", "labels", "ids", "made")
DEALT = ("embeddings", "inverse", "made")
"""Of what is kept, that of which each rank of a sharded memory has its part."""
COUNTED = ("added", "step", "cursor")


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
    return stable.inverse_lengths(full_precision(rows)).squeeze(1)


class Slots(nn.Module):
    """What a memory holds, and where; see ``CrossBatchMemory``."""

    embeddings: Tensor | None
    inverse: Tensor | None
    labels: Tensor | None
    ids: Tensor | None
    made: Tensor | None

    size: int
    device: torch.device | None
    dtype: torch.dtype | None
    xbm_compat: bool
    sharded: bool

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = self.inverse = self.labels = self.ids = self.made = None
        self.added = self.step = self.cursor = 0
        self._place = (0, 1)

    def __len__(self) -> int:
        """Return how many embeddings there are to compare with."""
        if self.labels is None:
            return 0
        if self.xbm_compat:
            return self.size if bool(self.labels[-1].any()) else self.cursor
        return min(self.added, self.size)

    @property
    def dealt_out(self) -> bool:
        """Whether there are several ranks and each has a part."""
        return self.sharded and world_size() > 1

    def get_extra_state(self) -> dict[str, Any]:
        """Return everything a resumed run needs; ``state_dict`` calls this, with ``sharded`` on all ranks."""
        state = {name: getattr(self, name) for name in (*KEPT, *COUNTED)}
        if self.labels is not None and self.sharded:
            check_ranks(self._place)
            if self.dealt_out:
                to = self.labels.device
                state |= {name: ranks.put_together(state[name].to(to), self.size) for name in DEALT}
        return state

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what ``get_extra_state`` returned; ``load_state_dict`` calls this.

        Raises:
            NearfarError: if the state is that of a memory of another size.
        """
        stored = state["embeddings"]
        if stored is not None and len(stored) != self.size:
            raise NearfarError(
                f"this memory has size {self.size} but the saved one has {len(stored)}; create it with "
                "the same size, or begin with an empty one."
            )
        self._place = (rank(), world_size())
        for name in KEPT:
            value = state[name]
            if value is not None:
                value = ranks.own_part(value) if self.dealt_out and name in DEALT else value.clone()
            setattr(self, name, value)
        for name in COUNTED:
            setattr(self, name, int(state[name]))
        if stored is not None:
            self._settle(stored)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _store(
        self, embeddings: Tensor, labels: Tensor, ids: Tensor | None, counts: Sequence[int] | None
    ) -> Int[Tensor, " n"]:
        """Write rows into the ring; return the slot of each, -1 for those that are not held."""
        x = embeddings.detach()
        if self.embeddings is None:
            self._create(x, labels, ids)
        self._settle(x)
        assert self.embeddings is not None
        assert self.inverse is not None
        assert self.labels is not None
        assert self.made is not None
        x = x.to(self.embeddings) if counts is None else x.to(self.embeddings.dtype)
        slots = torch.full((len(labels),), -1, device=labels.device)
        if counts is None:
            good = torch.nonzero(x.isfinite().all(1)).squeeze(1).to(labels.device)
        else:
            good = ranks.finite_rows(x, counts)
        places = self._places(len(good))
        good = good[len(good) - len(places) :]
        slots[good] = places.to(slots.device)
        if self.dealt_out:
            rows, there = ranks.rows_to_store(x, slots, counts)
        else:
            rows, there = x[good.to(x.device)], places
        rows, there = rows.to(self.embeddings.device), there.to(self.embeddings.device)
        self.embeddings[there] = rows
        self.inverse[there] = inverse_lengths(rows)
        self.labels[places] = labels[good].to(self.labels.dtype)
        self.made[there.to(self.made.device)] = self.step
        if self.ids is not None and ids is not None:
            self.ids[places] = ids[good].to(self.ids.dtype)
        return slots

    def _places(self, count: int) -> Int[Tensor, " new"]:
        """Return the slots that new rows go to, and move on."""
        assert self.labels is not None
        if self.xbm_compat:
            given = (count, self.size, self.cursor, self.labels.device)
            places, self.cursor = next_slots_of_paper(*given)
        else:
            places = next_slots(count, self.size, self.added, self.labels.device)
        self.added += count
        return places

    def _create(self, x: Tensor, labels: Tensor, ids: Tensor | None) -> None:
        """Make room, now that dimensions and types are known."""
        self._place = (rank(), world_size())
        held = ranks.dealt(self.size)[rank()] if self.dealt_out else self.size
        kinds = {"ids": ids is not None, "device": self.device, "dtype": self.dtype}
        for name, value in new_slots(x, labels, size=self.size, held=held, **kinds).items():
            setattr(self, name, value)

    def _settle(self, x: Tensor) -> None:
        """Be where the batch is, embeddings on ``device`` where one was asked for."""
        for name in KEPT:
            value = getattr(self, name)
            if value is not None:
                pinned = self.device is not None and name in ("embeddings", "inverse")
                setattr(self, name, value.to(self.device if pinned else x.device))
