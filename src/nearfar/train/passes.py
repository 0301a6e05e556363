"""What a batch costs in one pass and in two, before it is tried: the parts are measured on few images."""

import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.losses import Loss, Sum
from nearfar.memory import CrossBatchMemory
from nearfar.models import Embedder
from nearfar.similarity.stable import normalize
from nearfar.train.large_batch import batch_norms
from nearfar.train.precision import Numerics
from nearfar.train.room import free_memory
from nearfar.train.trial import PIXELS, try_loss, try_network

ROWS = 4096
"""Embeddings that the loss is tried with; more are reckoned."""
SHARE = 0.5
"""Of the free memory that may be kept for the backward pass, which takes up to as much again on its way."""
MOST = 1024
"""Images in a chunk that is proposed; more are no faster."""


@dataclass(frozen=True)
class Passes:
    """What a step costs by its number of passes. Bytes are those kept for the backward pass.

    Attributes:
        batch: images in it.
        chunk: images at a time, as configured; 0 for one pass.
        per_image: bytes that one image keeps.
        always: bytes that stay whatever the chunk: weights, gradients, optimiser, bytes of the images,
            embeddings.
        free: bytes that the device can give; None where nothing tells.
        one_pass: seconds of a step in one pass.
        second: seconds that the first of two passes adds.
        proposed: a chunk that fits, 0 where one pass does; None where not even one image fits.
        batch_norm: whether layers normalise by the batch, which chunks do not allow.
    """

    batch: int
    chunk: int
    per_image: int
    always: int
    free: int | None
    one_pass: float
    second: float
    proposed: int | None
    batch_norm: bool

    @property
    def two_passes(self) -> float:
        """Seconds of a step in two passes."""
        return self.one_pass + self.second

    def bytes_with(self, chunk: int) -> int:
        """Bytes with ``chunk`` images at a time; 0 for all."""
        return self.always + self.per_image * min(chunk or self.batch, self.batch)

    def lines(self) -> list[str]:
        """Say whether one pass fits, and what two cost."""
        fits = self.free is None or self.bytes_with(0) <= SHARE * self.free
        free = "" if self.free is None else f" of {shown(self.free)} free"
        verdict = "" if self.free is None else ": it fits" if fits else ": it does not fit"
        told = [f"one pass    {shown(self.bytes_with(0))}{free}, {self.one_pass:.3g} s a step{verdict}"]
        if self.free is not None:
            told[0] += f" (half of what is free, {shown(int(SHARE * self.free))}, may be kept)"
        chunk = self.chunk or self.proposed or 0
        if 0 < chunk < self.batch:
            slower = self.two_passes / self.one_pass
            told.append(
                f"two passes  {shown(self.bytes_with(chunk))} with {chunk:,} images at a time, "
                f"{self.two_passes:.3g} s a step (x {slower:.2f})"
            )
        if (advice := self._advice(fits)) is not None:
            told.append(f"            {advice}")
        return told

    def _advice(self, fits: bool) -> str | None:
        if self.proposed is None:
            return "not even one image at a time fits; take a smaller model.backbone or model.size"
        if fits:
            return "batch.chunk = 0 is faster" if 0 < self.chunk < self.batch else None
        if self.batch_norm:
            return (
                f"batch.chunk = {self.proposed} needs a backbone with layer norm, or a pretrained one with "
                "model.freeze_batch_norm = true"
            )
        if self.chunk == 0:
            return f"set batch.chunk = {self.proposed}"
        if self.free is not None and self.bytes_with(self.chunk) > SHARE * self.free:
            return f"that does not fit either; set batch.chunk = {self.proposed}"
        return None


def weigh(
    embedder: Embedder,
    loss: Loss | Sum,
    memory: CrossBatchMemory | None,
    pixels: Float[Tensor, "probe 3 h w"],
    labels: Int[Tensor, " n"],
    *,
    chunk: int,
    always: int,
    numerics: Numerics,
) -> Passes:
    """Try network and loss on copies, and reckon the whole batch from that.

    Args:
        pixels: the first images of the batch, `probe_size` of them.
        labels: of the whole batch.
        always: bytes that stay whatever the chunk.
    """
    n, probe = len(labels), len(pixels)
    cost = try_network(embedder, pixels, numerics=numerics)
    rows = min(n, ROWS)
    embeddings = normalize(torch.randn(rows, embedder.dim, device=pixels.device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some rows of a batch may well have no positive
        of_loss = try_loss(loss, embeddings, labels[:rows])
    past = 0 if memory is None else memory.size
    of_loss *= n / rows * ((n + past) / rows if _compares(loss) else 1)
    per_image = math.ceil(cost.activations / probe)
    free = free_memory(pixels.device)
    room = math.inf if free is None else SHARE * free - always
    return Passes(
        batch=n,
        chunk=chunk if chunk < n else 0,
        per_image=per_image,
        always=always,
        free=free,
        one_pass=cost.seconds * n / probe + of_loss,
        second=cost.forward * n / probe,
        proposed=_proposed(n, per_image, room),
        batch_norm=bool(batch_norms(embedder.train())),
    )


def probe_size(side: int, batch: int, chunk: int) -> int:
    """Return how many images the network is tried with: a chunk, at most a million pixels."""
    return min(batch, chunk or batch, max(2, PIXELS // side**2))


def shown(size: int) -> str:
    """Return bytes for people."""
    return f"{size / 2**20:,.1f} MB" if size < 2**30 else f"{size / 2**30:,.2f} GB"


def _proposed(n: int, per_image: int, room: float) -> int | None:
    """Return 0 where all fit, else the largest power of two that does."""
    if n * per_image <= room:
        return 0
    if per_image > room:
        return None
    return min(MOST, 2 ** int(math.log2(room / per_image)))


def _compares(loss: Loss | Sum) -> bool:
    losses = loss.losses.values() if isinstance(loss, Sum) else [loss]
    return any(one.compares_with_the_batch for one in losses if isinstance(one, Loss))
