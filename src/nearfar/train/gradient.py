"""The gradient of one batch: bytes to pixels, pixels to embeddings, embeddings to the loss, and back."""

from dataclasses import dataclass

from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from nearfar.distributed import world_size
from nearfar.similarity import normalize
from nearfar.train.further import active_pairs
from nearfar.train.large_batch import two_pass
from nearfar.train.precision import Numerics
from nearfar.train.randomness import seed_everything
from nearfar.train.setup import Parts


@dataclass(frozen=True)
class Computed:
    """What a batch came to; its gradient is in ``.grad``.

    Attributes:
        value: of the loss.
        embeddings: of the batch, of unit length.
        more: numbers that only a step that is told of has.
    """

    value: Float[Tensor, ""]
    embeddings: Float[Tensor, "n dim"]
    more: dict[str, float]


def gradient(
    parts: Parts,
    network: nn.Module,
    numerics: Numerics,
    images: UInt8[Tensor, "n 3 r r"],
    labels: Int64[Tensor, " n"],
    ids: Int64[Tensor, " n"],
    *,
    drawn: Float[Tensor, "n draws"],
    place: tuple[int, ...],
    chunk: int,
    telling: int | None,
) -> Computed:
    """Compute loss and gradient of a batch, and let the memory take it in.

    Images are bytes until the network needs them: with ``chunk`` only so many are ever pixels at a time.

    Args:
        network: what embeds, or what exchanges its gradients with other ranks.
        drawn: how each image is augmented.
        place: of the step in the run. What a loss draws hangs on it alone, so that ranks draw alike.
        chunk: images at a time; 0 for all.
        telling: the number of this step, where its numbers are looked at.
    """
    more: dict[str, float] = {}
    seen: list[Tensor] = []

    def prepare(some: Tensor, drawn: Tensor) -> Tensor:
        pixels = parts.augment.apply(some.to(parts.device, non_blocking=True), drawn)
        return pixels.contiguous(memory_format=numerics.layout())

    def compare(embeddings: Tensor, labels: Tensor) -> Tensor:
        embeddings = embeddings.float()
        seen.append(normalize(embeddings.detach()) if parts.loss.reads_lengths else embeddings.detach())
        if world_size() > 1:
            seed_everything(*place)
        if parts.memory is None:
            return parts.loss(embeddings, labels)
        rows = ids.to(parts.device)
        if telling is not None:
            more.update(active_pairs(parts.loss, parts.memory, embeddings, labels, rows, step=telling))
        return parts.loss(embeddings, labels, ids=rows, memory=parts.memory)

    value = two_pass(
        network,
        compare,
        (images, drawn),
        labels.to(parts.device, non_blocking=True),
        chunk,
        prepare=prepare,
        autocast=lambda: numerics.autocast(parts.device),
    )
    return Computed(value, seen[0], more)
