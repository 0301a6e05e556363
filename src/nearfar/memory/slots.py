"""The slots of a memory: what they hold when it is new, and which of them rows go to."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nearfar.distributed import rank, world_size
from nearfar.errors import NearfarError
from nearfar.memory import ranks
from nearfar.memory.again import LastBatch, overwritten
from nearfar.memory.refusals import check_dim, check_ranks
from nearfar.memory.state import COUNTED, DEALT, NAMES, ROWS, Like, read, take_out
from nearfar.similarity import stable
from nearfar.similarity.stable import full_precision


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
    dim: int | None
    device: torch.device | None
    dtype: torch.dtype | None
    xbm_compat: bool
    sharded: bool

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = self.inverse = self.labels = self.ids = self.made = None
        self.added = self.step = self.cursor = 0
        self._place = (0, 1)
        self._like = Like()
        self._last: LastBatch | None = None

    def __len__(self) -> int:
        """Return how many embeddings there are to compare with."""
        if self.labels is None:
            return 0
        if self.xbm_compat:
            return self.size if stable.read(self.labels[-1].any()) else self.cursor
        return min(self.added, self.size)

    @property
    def dealt_out(self) -> bool:
        """Whether there are several ranks and each has a part."""
        return self.sharded and world_size() > 1

    @property
    def with_ids(self) -> bool:
        """Whether there is an id for each row that is stored."""
        return self.ids is not None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Put down all that a resumed run needs; ``state_dict`` calls this, with ``sharded`` on all ranks."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        near = torch.device("cpu") if self.labels is None else self.labels.device
        every: dict[str, Any] = self._like.rows(self.size, self.size, near, near)
        if self.labels is not None:
            every |= {name: rows for name in ROWS if (rows := getattr(self, name)) is not None}
            if self.sharded:
                check_ranks(self._place)
            if self.dealt_out:
                every |= {name: ranks.put_together(every[name].to(near), self.size) for name in DEALT}
        for name in NAMES:
            value = every[name] if name in ROWS else torch.tensor(int(getattr(self, name)))
            destination[prefix + name] = value.clone()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take over what ``_save_to_state_dict`` has put down; ``load_state_dict`` calls this.

        Raises:
            NearfarError: if the state is that of a memory of another size or dimension.
        """
        found, missing = take_out(state_dict, prefix)
        rest = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if missing:
            missing_keys.extend(missing if strict else [])
            return
        state = read(found, self.size)
        self._place, self._last = (rank(), world_size()), None
        if state["embeddings"] is not None:
            self._learn_kind(state["embeddings"], state["labels"])
        for name, value in state.items():
            held = value
            if isinstance(value, Tensor):
                held = ranks.own_part(value) if self.dealt_out and name in DEALT else value.clone()
            setattr(self, name, held)
        if self.embeddings is not None:
            self._settle(self.embeddings)

    def _learn_kind(self, x: Tensor, labels: Tensor) -> None:
        """Note what rows are like, for the empty copies of this memory as well.

        Raises:
            NearfarError: if they are of another dimension than the memory was created for.
        """
        if self.dim is not None:
            check_dim(x, self.dim)
        like = Like(x.shape[1], self.dtype or x.dtype, tuple(labels.shape[1:]), seen=True)
        if not self._like.seen:
            vars(self._like).update(vars(like))
        elif like != self._like:
            self._like = like

    @torch.inference_mode(False)
    @torch.no_grad()
    def _store(
        self, embeddings: Tensor, labels: Tensor, ids: Tensor | None, counts: Sequence[int] | None
    ) -> Int[Tensor, " n"]:
        """Write rows into the ring; return the slot of each, -1 for those that are not held."""
        x = embeddings.detach()
        before = {name: getattr(self, name) for name in COUNTED}
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
            good = stable.places_in(x.isfinite().all(1)).to(labels.device)
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
        self._last = LastBatch(x, labels, before, slots)
        self._last.over = overwritten(
            [(name, getattr(self, name), there) for name in ("embeddings", "inverse")],
            [(name, getattr(self, name), places) for name in ("labels", "ids")],
        )
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
        self._learn_kind(x, labels)
        held = ranks.dealt(self.size)[rank()] if self.dealt_out else self.size
        for name, value in self._like.rows(self.size, held, labels.device, self.device or x.device).items():
            setattr(self, name, value)
        if ids is None:
            self.ids = None

    def _settle(self, x: Tensor) -> None:
        """Be where the batch is, embeddings on ``device`` where one was asked for."""
        for name in ROWS:
            value = getattr(self, name)
            if value is not None:
                pinned = self.device is not None and name in ("embeddings", "inverse")
                setattr(self, name, value.to(self.device if pinned else x.device))
