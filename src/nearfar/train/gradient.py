"""The gradient of one batch: bytes to pixels, pixels to embeddings, embeddings to the loss, and back."""

from dataclasses import dataclass

from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from nearfar.distributed import world_size
from nearfar.train.further import share_of_memory
from nearfar.train.large_batch import two_pass
from nearfar.train.precision import Numerics
from nearfar.train.randomness import seed_everything
from nearfar.train.setup import Parts


@dataclass(frozen=True)
class Computed:
    """What a batch came to; its gradient is in ``.grad``.

    Attributes:
        value: of the loss.
        embeddings: of the batch.
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
    telling: bool,
) -> Computed:
    """Compute loss and gradient of a batch, and let the memory take it in.

    Images are bytes until the network needs them: with ``chunk`` only so many are ever pixels at a time.

    Args:
        network: the embedder, or what exchanges its gradients with other ranks.
        drawn: how each image is augmented.
        place: of the step in the run. What a loss draws hangs on it alone, so that ranks draw alike.
        chunk: images at a time; 0 for all.
        telling: whether the numbers of this step are looked at.
    """
    more: dict[str, float] = {}
    seen: list[Tensor] = []

    def prepare(some: Tensor, drawn: Tensor) -> Tensor:
        pixels = parts.augment.apply(some.to(parts.device, non_blocking=True), drawn)
        return pixels.contiguous(memory_format=numerics.layout())

    def compare(embeddings: Tensor, labels: Tensor) -> Tensor:
        embeddings = embeddings.float()
        seen.append(embeddings.detach())
        if world_size() > 1:
            seed_everything(*place)
        if parts.memory is None:
            return parts.loss(embeddings, labels)
        rows = ids.to(parts.device)
        if telling:
            share = share_of_memory(parts.memory, parts.loss, embeddings, labels, rows)
            more.update({} if share is None else {"memory_share": share})
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
