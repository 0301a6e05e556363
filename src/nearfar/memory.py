"""Cross-batch memory: embeddings of past steps as further candidates, without gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nearfar.errors import NearfarError
from nearfar.inputs import Labels
from nearfar.memory_refusals import Combine, Enqueue, check_batch, check_fit, check_settings
from nearfar.recalled import Recalled
from nearfar.similarity.labels import matches
from nearfar.similarity.stable import full_precision, normalize
from nearfar.similarity.stored import Stored

KEPT = ("embeddings", "inverse", "labels", "ids", "made")
COUNTED = ("added", "step", "cursor")


class CrossBatchMemory(nn.Module):
    """The newest ``size`` embeddings of past steps: give it to a loss, ``loss(x, labels, memory=memory)``.

    The anchors are the batch; the candidates are the batch and the memory together, the memory without
    gradient. A batch is stored after its loss, over the oldest rows (slot = how many came before, modulo
    ``size``), so that it never meets a copy of itself; an empty memory changes nothing. It is stored in
    training only: not in ``eval()`` mode (of the loss or of the memory) and not under ``torch.no_grad()``,
    where the memory is read and left as it is. ``add`` stores by hand.

    Embeddings of past steps were made with older weights: start when these have calmed down
    (``start_after``) and look at ``drift``. With ``ids`` (the row of each image in the data set) an image
    that comes again never meets its own older embeddings.

    All state is in ``state_dict()``; the memory stays on its device when a model that holds it is moved.

    Args:
        size: how many embeddings to hold.
        start_after: training steps at the beginning in which nothing is stored.
        device: where the embeddings are held; None is where the batch is, as labels and ids always are.
        dtype: what embeddings are rounded to, such as ``torch.float16``; None is that of the first batch.
        combine: "together", as above. "sum" adds up the loss of the batch with itself and ``weight`` times
            that of the batch against the memory, as the paper does. "memory" takes the latter alone.
        weight: how much the memory counts with "sum".
        enqueue: "before" stores a batch before its loss, as the paper's code and pytorch-metric-learning do:
            it then meets its own copies, each row but itself. Not for "together".
        xbm_compat: the ring of the paper's public code, for parity: stored before the loss; a batch that no
            longer fits goes over the *newest* rows at the end, and the ring begins again at 0; label 0 in the
            last slot counts as "not full yet", so that only the rows before the cursor are seen.

    Attributes:
        drift: mean cosine of embeddings with their older versions in memory, over the rows of the last batch
            whose id was there; NaN where there was none.

    Raises:
        NearfarError: if a setting makes no sense.

    Reference:
        Wang et al., CVPR 2020. https://arxiv.org/abs/1912.06798
    """

    embeddings: Tensor | None
    inverse: Tensor | None
    labels: Tensor | None
    ids: Tensor | None
    made: Tensor | None

    def __init__(
        self,
        size: int,
        *,
        start_after: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        combine: Combine = "together",
        weight: float = 1.0,
        enqueue: Enqueue = "after",
        xbm_compat: bool = False,
    ) -> None:
        super().__init__()
        enqueue = "before" if xbm_compat else enqueue
        check_settings(size, start_after, dtype, combine, weight, enqueue)
        self.size, self.start_after = size, start_after
        self.device = None if device is None else torch.device(device)
        self.dtype = dtype
        self.combine: Combine = combine
        self.weight, self.enqueue, self.xbm_compat = weight, enqueue, xbm_compat
        self.drift: Tensor | None = None
        self.embeddings = self.inverse = self.labels = self.ids = self.made = None
        self.added = self.step = self.cursor = 0
        self._turn: _Turn | None = None

    def __len__(self) -> int:
        """Return how many embeddings there are to compare with."""
        if self.labels is None:
            return 0
        if self.xbm_compat:
            return self.size if bool(self.labels[-1].any()) else self.cursor
        return min(self.added, self.size)

    def __bool__(self) -> bool:
        """Be true even when empty, as other modules are."""
        return True

    def add(
        self,
        embeddings: Float[Tensor, "n dim"],
        labels: Int[Tensor, " n"] | Int[Tensor, "n tag"],
        ids: Int[Tensor, " n"] | None = None,
    ) -> None:
        """Store embeddings; of more than ``size`` the last. Rows that are not finite are left out.

        Raises:
            NearfarError: if they do not fit each other, or what is stored already.
        """
        self._checked(embeddings, labels, ids)
        self._store(embeddings, labels, ids)

    def clear(self) -> None:
        """Forget everything."""
        self.embeddings = self.inverse = self.labels = self.ids = self.made = self.drift = None
        self.added = self.step = self.cursor = 0

    @contextmanager
    def one_step(self) -> Iterator[None]:
        """Let several losses of one batch read the same memory; it is stored once, when all are done."""
        turn = self._turn = _Turn()
        try:
            yield
        finally:
            self._turn = None
        if turn.batch is not None:
            self.take_in(*turn.batch)

    def recall(
        self, embeddings: Tensor, labels: Labels, ids: Tensor | None, *, learning: bool
    ) -> Recalled | None:
        """Return what a batch is to be compared with; None where that is the batch alone. A loss calls this.

        Args:
            learning: whether this is a training step, which counts.

        Raises:
            NearfarError: if the batch does not fit what is stored.
        """
        labels = self._checked(embeddings, labels, ids)
        slots = None
        if learning and self.enqueue == "before":
            if self._turn is None or not self._turn.stored:
                slots = self._step(embeddings, labels, ids)
            if self._turn is not None:
                slots = self._turn.slots if self._turn.stored else slots
                self._turn.stored, self._turn.slots = True, slots
        count = len(self)
        if self.embeddings is None or self.inverse is None or self.labels is None or not count:
            return None
        return Recalled(
            stored=Stored(
                self.embeddings[:count], self.inverse[:count], full_precision(embeddings.detach()[:0])
            ),
            labels=self.labels[:count],
            ids=None if self.ids is None else self.ids[:count],
            own=None if slots is None else slots.masked_fill(slots >= count, -1),
            with_batch=self.combine == "together",
            weight=self.weight if self.combine == "sum" else 1.0,
        )

    def take_in(self, embeddings: Tensor, labels: Tensor, ids: Tensor | None) -> None:
        """Store a batch after its loss, in a training step. A loss calls this."""
        if self._turn is not None:
            self._turn.batch = (embeddings, labels, ids)
        elif self.enqueue == "after":
            self._step(embeddings, labels, ids)

    def get_extra_state(self) -> dict[str, Any]:
        """Return everything a resumed run needs; ``state_dict`` calls this."""
        return {name: getattr(self, name) for name in (*KEPT, *COUNTED)}

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
        for name in KEPT:
            value = state[name]
            setattr(self, name, None if value is None else value.clone())
        for name in COUNTED:
            setattr(self, name, int(state[name]))
        if stored is not None:
            self._settle(stored)

    def extra_repr(self) -> str:
        """Show the settings and how full it is."""
        shown = {"size": self.size, "start_after": self.start_after, "combine": self.combine}
        return ", ".join(f"{key}={value!r}" for key, value in shown.items()) + f", filled={len(self)}"

    def _step(self, embeddings: Tensor, labels: Tensor, ids: Tensor | None) -> Tensor | None:
        """Count a training step and store its batch, once the memory has begun."""
        self._measure_drift(embeddings, ids)
        self.step += 1
        return self._store(embeddings, labels, ids) if self.step > self.start_after else None

    @torch.inference_mode(False)
    @torch.no_grad()
    def _store(self, embeddings: Tensor, labels: Tensor, ids: Tensor | None) -> Int[Tensor, " n"]:
        """Write rows into the ring; return the slot of each, -1 for those that are not held."""
        x = embeddings.detach()
        if self.embeddings is None:
            self._create(x, labels, ids)
        self._settle(x)
        assert self.embeddings is not None
        assert self.inverse is not None
        assert self.labels is not None
        assert self.made is not None
        x = x.to(self.embeddings)
        slots = torch.full((len(x),), -1, device=labels.device)
        good = torch.nonzero(x.isfinite().all(1)).squeeze(1).to(labels.device)
        places = self._places(len(good))
        good = good[len(good) - len(places) :]
        slots[good] = places.to(slots.device)
        there, rows = places.to(x.device), x[good.to(x.device)]
        length = torch.linalg.vector_norm(full_precision(rows), dim=1)
        zero = length == 0
        self.embeddings[there] = rows
        self.inverse[there] = length.masked_fill(zero, 1.0).reciprocal().masked_fill(zero, 0.0)
        self.labels[places] = labels[good].to(self.labels.dtype)
        self.made[places] = self.step
        if self.ids is not None and ids is not None:
            self.ids[places] = ids[good].to(self.ids.dtype)
        return slots

    def _places(self, count: int) -> Int[Tensor, " new"]:
        """Return the slots that ``count`` new rows (or the last ``size`` of them) go to, and move on."""
        assert self.labels is not None
        device = self.labels.device
        if self.xbm_compat:
            if count > self.size:
                raise NearfarError(
                    f"xbm_compat cannot store a batch of {count} rows in a memory of {self.size}; "
                    "make the memory larger, or leave xbm_compat off."
                )
            fits = self.cursor + count <= self.size
            first = self.cursor if fits else self.size - count
            self.cursor = self.cursor + count if fits else 0
            self.added += count
            return torch.arange(first, first + count, device=device)
        held = min(count, self.size)
        places = torch.arange(self.added + count - held, self.added + count, device=device) % self.size
        self.added += count
        return places

    def _create(self, x: Tensor, labels: Tensor, ids: Tensor | None) -> None:
        """Make room, now that dimensions and types are known."""
        at, device = self.device or x.device, labels.device
        self.embeddings = torch.zeros(self.size, x.shape[1], dtype=self.dtype or x.dtype, device=at)
        self.inverse = torch.zeros(self.size, dtype=full_precision(self.embeddings[:0]).dtype, device=at)
        kind = torch.long if labels.ndim == 1 else torch.bool
        self.labels = torch.zeros(self.size, *labels.shape[1:], dtype=kind, device=device)
        self.made = torch.full((self.size,), -1, device=device)
        self.ids = None if ids is None else torch.full((self.size,), -1, device=device)

    def _settle(self, x: Tensor) -> None:
        """Be where the batch is, embeddings on ``device`` where one was asked for."""
        for name in KEPT:
            value = getattr(self, name)
            if value is not None:
                pinned = self.device is not None and name in ("embeddings", "inverse")
                setattr(self, name, value.to(self.device if pinned else x.device))

    @torch.no_grad()
    def _measure_drift(self, embeddings: Tensor, ids: Tensor | None) -> None:
        """Compare rows with what is stored under the same id."""
        x = full_precision(embeddings.detach())
        self.drift = x.new_tensor(torch.nan)
        if ids is None or self.ids is None or self.embeddings is None:
            return
        row, slot = matches(ids.to(self.ids.dtype), self.ids[: len(self)])
        older = self.embeddings[slot.to(self.embeddings.device)].to(x)
        self.drift = (normalize(x[row]) * normalize(older)).sum(1).mean()

    def _checked(self, embeddings: Any, labels: Any, ids: Any) -> Tensor:
        """Refuse a batch that cannot be stored, or does not fit what is stored; return its labels."""
        labels = check_batch(embeddings, labels, ids)
        if self.embeddings is not None and self.labels is not None:
            check_fit(embeddings, labels, ids, self.embeddings, self.labels, self.ids)
            self._settle(embeddings)
        return labels


class _Turn:
    """What several losses of one step share."""

    def __init__(self) -> None:
        self.stored = False
        self.slots: Tensor | None = None
        self.batch: tuple[Tensor, Tensor, Tensor | None] | None = None
