"""Cross-batch memory: embeddings of past steps as further candidates, without gradient."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.distributed import rank
from nearfar.inputs import Labels
from nearfar.memory import ranks
from nearfar.memory.again import LastBatch, in_backward
from nearfar.memory.recalled import Recalled
from nearfar.memory.refusals import (
    Combine,
    Enqueue,
    check_batch,
    check_dim,
    check_fit,
    check_ranks,
    check_settings,
    refuse_local,
)
from nearfar.memory.slots import Slots
from nearfar.memory.state import COUNTED, ROWS, Like
from nearfar.similarity.labels import matches
from nearfar.similarity.stable import full_precision, normalize
from nearfar.similarity.stored import Stored


class CrossBatchMemory(Slots):
    """The newest ``size`` embeddings of past steps: give it to a loss, ``loss(x, labels, memory=memory)``.

    The anchors are the batch; the candidates are the batch and the memory together, the memory without
    gradient. A batch is stored after its loss, over the oldest rows (slot = how many came before, modulo
    ``size``), so that it never meets a copy of itself; an empty memory changes nothing. It is stored in
    training only: not in ``eval()`` mode (of the loss or of the memory) and not under ``torch.no_grad()``,
    where the memory is read and left as it is. ``add`` stores by hand.

    Embeddings of past steps were made with older weights: start when these have calmed down
    (``start_after``) and look at ``drift``. With ``ids`` (the row of each image in the data set) an image
    that comes again never meets its own older embeddings.

    All state is in ``state_dict()``: copies, as tensors under names, and none of them a buffer, so that no
    average of weights, broadcast or conversion of a model that holds the memory touches what is stored; it
    stays on its device when that model is moved. A loss that ``torch.utils.checkpoint`` computes again meets
    the memory as it was the first time, and stores nothing twice.

    Across ranks a memory takes in the rows of all ranks, in rank order, and every rank has all of it, or,
    with ``sharded``, one W-th. It then goes with losses across ranks alone, ``add`` is to be given the same
    rows on every rank, and **every rank must call** ``state_dict()``, also where one of them writes it: it
    puts everything together, on every rank in main memory, and is that of one process. Any number of ranks
    can load it, sharded or not.

    Args:
        size: how many embeddings to hold.
        dim: dimensions of the embeddings, where they are known beforehand: the tensors of ``state_dict()``
            then have the same shapes before the first batch as after it, which loading a checkpoint in place
            needs (torch.distributed.checkpoint). ``dtype`` is then torch's default unless it is given.
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
        sharded: of W ranks each holds size / W embeddings, and labels and ids of all. Nothing changes in one
            process.

    Attributes:
        drift: mean cosine of embeddings with their older versions in memory, over the rows of the last batch
            whose id was there; NaN where there was none.

    Raises:
        NearfarError: if a setting makes no sense.

    Reference:
        Wang et al., CVPR 2020. https://arxiv.org/abs/1912.06798
    """

    def __init__(
        self,
        size: int,
        *,
        start_after: int = 0,
        dim: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        combine: Combine = "together",
        weight: float = 1.0,
        enqueue: Enqueue = "after",
        xbm_compat: bool = False,
        sharded: bool = False,
    ) -> None:
        super().__init__()
        enqueue = "before" if xbm_compat else enqueue
        numbers = check_settings(size, start_after, dim, dtype, combine, weight, enqueue)
        self.size, self.start_after, self.dim, self.weight = numbers
        self.device = None if device is None else torch.device(device)
        self.dtype = torch.get_default_dtype() if dtype is None and dim is not None else dtype
        self._like = Like(self.dim or 0, self.dtype or torch.float32)
        self.combine: Combine = combine
        self.enqueue, self.xbm_compat = enqueue, xbm_compat
        self.sharded = sharded
        self.drift: Tensor | None = None
        self._turn: _Turn | None = None
        self._looked = 0

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
        self._checked(embeddings, labels, ids, None)
        self._store(embeddings, labels, ids, None)

    def clear(self) -> None:
        """Forget everything."""
        self.embeddings = self.inverse = self.labels = self.ids = self.made = self.drift = None
        self.added = self.step = self.cursor = 0
        self._last = None

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

    @property
    def bytes_to_gather(self) -> int:
        """What it takes to have all embeddings on every rank for a moment; 0 where they are there anyway."""
        if self.embeddings is None or not self.dealt_out:
            return 0
        return 2 * len(self) * self.embeddings.shape[1] * self.embeddings.element_size()

    def recall(
        self,
        embeddings: Tensor,
        labels: Labels,
        ids: Tensor | None,
        *,
        learning: bool,
        counts: Sequence[int] | None = None,
        again: bool = False,
    ) -> Recalled | None:
        """Return what a batch is to be compared with; None where that is the batch alone. A loss calls this.

        Args:
            embeddings: of all ranks; of this one where ``counts`` is given.
            learning: whether this is a training step, which counts.
            counts: rows of each rank, for a memory that is sharded.
            again: whether this is the last training step, computed again in the backward pass.

        Raises:
            NearfarError: if the batch does not fit what is stored.
        """
        if self.dealt_out and counts is None:
            refuse_local()
        labels = self._checked(embeddings, labels, ids, counts)
        if again and self._last is not None:
            return self._read_again(self._last, embeddings, labels)
        slots = None
        if learning and self.enqueue == "before":
            if self._turn is None or not self._turn.stored:
                slots = self._step(embeddings, labels, ids, counts)
            if self._turn is not None:
                slots = self._turn.slots if self._turn.stored else slots
                self._turn.stored, self._turn.slots = True, slots
        return self._read_with(embeddings, slots)

    def _read_with(self, embeddings: Tensor, slots: Tensor | None) -> Recalled | None:
        return self.read(embeddings, None if slots is None else slots.masked_fill(slots >= len(self), -1))

    def _read_again(self, last: LastBatch, embeddings: Tensor, labels: Tensor) -> Recalled | None:
        """Return what the last batch was compared with when it was the newest."""
        last.check(embeddings, labels)
        if self.enqueue == "before":
            return self._read_with(embeddings, last.slots)
        names = (*ROWS, *COUNTED)
        now = {name: getattr(self, name) for name in names}
        try:
            for name, value in {**now, **last.before({name: now[name] for name in ROWS})}.items():
                setattr(self, name, value)
            return self.read(embeddings)
        finally:
            for name, value in now.items():
                setattr(self, name, value)

    def meets(self, training: bool) -> tuple[bool, bool]:
        """Say what the call of a loss is to this memory: (a training step, the last one computed again).

        ``torch.utils.checkpoint`` computes a step a second time in the backward pass. If it was a training
        step the first time (``use_reentrant=False``), it is none now; if it was done without gradient, it is.

        Args:
            training: whether the loss is in training mode.
        """
        part = training and self.training
        if not in_backward():
            learning = part and torch.is_grad_enabled()
            self._looked = 0 if learning else self._looked + part
            return learning, False
        learning = part and torch.is_grad_enabled()
        if learning and self._last is not None and not self._looked:
            return False, True
        self._looked -= learning and self._looked > 0
        return learning, False

    def read(self, embeddings: Tensor, own: Int[Tensor, " n"] | None = None) -> Recalled | None:
        """Return what is stored, to be compared with ``embeddings``; None while that is nothing.

        Args:
            own: the slot that holds each row of the batch, or -1.
        """
        count = len(self)
        if self.embeddings is None or self.inverse is None or self.labels is None or not count:
            return None
        self._settle(embeddings)
        counts = ranks.dealt(count) if self.dealt_out else None
        here = count if counts is None else counts[rank()]
        return Recalled(
            stored=Stored(
                self.embeddings[:here], self.inverse[:here], full_precision(embeddings.detach()[:0])
            ),
            labels=self.labels[:count],
            ids=None if self.ids is None else self.ids[:count],
            own=own,
            with_batch=self.combine == "together",
            weight=self.weight if self.combine == "sum" else 1.0,
            counts=counts,
        )

    def take_in(
        self, embeddings: Tensor, labels: Tensor, ids: Tensor | None, counts: Sequence[int] | None = None
    ) -> None:
        """Store a batch after its loss, in a training step. A loss calls this; see ``recall``."""
        if self._turn is not None:
            self._turn.batch = (embeddings, labels, ids, counts)
        elif self.enqueue == "after":
            self._step(embeddings, labels, ids, counts)

    def extra_repr(self) -> str:
        """Show the settings and how full it is."""
        shown = {"size": self.size, "start_after": self.start_after, "combine": self.combine}
        shown |= {"sharded": True} if self.sharded else {}
        return ", ".join(f"{key}={value!r}" for key, value in shown.items()) + f", filled={len(self)}"

    def _step(
        self, embeddings: Tensor, labels: Tensor, ids: Tensor | None, counts: Sequence[int] | None
    ) -> Tensor | None:
        """Count a training step and store its batch, once the memory has begun."""
        self._measure_drift(embeddings, ids, counts)
        self.step += 1
        if self.step > self.start_after:
            return self._store(embeddings, labels, ids, counts)
        self._last = LastBatch(embeddings.detach(), labels, {name: getattr(self, name) for name in COUNTED})
        return None

    @torch.no_grad()
    def _measure_drift(self, embeddings: Tensor, ids: Tensor | None, counts: Sequence[int] | None) -> None:
        """Compare rows with what is stored under the same id."""
        x = full_precision(embeddings.detach())
        self.drift = x.new_full((), torch.nan)
        if ids is None or self.ids is None or self.embeddings is None:
            return
        row, slot = matches(ids.to(self.ids.dtype), self.ids[: len(self)])
        if counts is not None:
            self.drift = ranks.drift(x, counts, (row, slot), self.embeddings)
            return
        older = self.embeddings[slot.to(self.embeddings.device)].to(x)
        self.drift = (normalize(x[row]) * normalize(older)).sum(1).mean()

    def _checked(self, embeddings: Any, labels: Any, ids: Any, counts: Sequence[int] | None) -> Tensor:
        """Refuse a batch that cannot be stored, or does not fit what is stored; return its labels."""
        labels = check_batch(embeddings, labels, ids, None if counts is None else sum(counts))
        if self.dim is not None:
            check_dim(embeddings, self.dim)
        if self.embeddings is not None and self.labels is not None:
            if self.sharded:
                check_ranks(self._place)
            check_fit(embeddings, labels, ids, self.embeddings, self.labels, self.ids)
            self._settle(embeddings)
        return labels


class _Turn:
    """What several losses of one step share."""

    def __init__(self) -> None:
        self.stored = False
        self.slots: Tensor | None = None
        self.batch: tuple[Tensor, Tensor, Tensor | None, Sequence[int] | None] | None = None
