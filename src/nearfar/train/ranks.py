"""What several ranks do differently in training: share a batch, exchange gradients, stay alike."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from nearfar.criterion.ranks.shard_state import sharded_weights
from nearfar.distributed import gather_rows, local_rank, rank, total, world_size
from nearfar.errors import ConfigError
from nearfar.models import Embedder
from nearfar.train.large_batch import batch_norms


def own_device(device: torch.device) -> torch.device:
    """Return this rank's GPU, where several ranks of a machine are to use GPUs."""
    if world_size() == 1 or device.type != "cuda" or device.index is not None:
        return device
    own = torch.device("cuda", local_rank())
    torch.cuda.set_device(own)
    return own


def own_place() -> tuple[int, ...]:
    """Return what makes this rank's random numbers its own; nothing in one process."""
    return (rank(),) if world_size() > 1 else ()


def own_batches(n: int, size: int) -> list[range]:
    """Return this rank's batches of ``n`` rows, in order.

    Whole batches are shared, so that an image is embedded in the same company by one process and by several,
    and its embedding is the same to the last bit.
    """
    return [range(start, min(start + size, n)) for start in range(0, n, size)[rank() :: world_size()]]


def put_together(rows: Float[Tensor, "row dim"], own: Sequence[range]) -> Float[Tensor, "all dim"]:
    """Return the rows of all ranks in order, of which this rank has those of its batches."""
    if world_size() == 1:
        return rows
    places = torch.tensor([row for batch in own for row in batch], dtype=torch.int64)
    return gather_rows(rows)[gather_rows(places).argsort()]


def check_batch(classes: int, images: int) -> None:
    """Refuse a batch that leaves ranks without an image."""
    if classes * images < world_size():
        raise ConfigError(
            f"a batch of {classes} x {images} images leaves some of {world_size()} processes without any; "
            "set batch.classes_per_batch higher, or start fewer."
        )


class Exchanged:
    """The network in training, whose gradients all ranks exchange.

    ``DistributedDataParallel`` sends them off while the backward pass goes on. While the backbone rests there
    are few, and they go with those of the loss, after it.

    Args:
        network: the embedder, or what makes embeddings with it.
    """

    def __init__(self, embedder: Embedder, network: nn.Module) -> None:
        self._embedder, self._network = embedder, network
        self._wrapped: DistributedDataParallel | None = None
        if world_size() > 1 and _on_gpu(embedder) and batch_norms(embedder.train()):
            from timm.layers.norm_act import convert_sync_batchnorm

            convert_sync_batchnorm(embedder)

    def network(self, *, resting: bool) -> nn.Module:
        """Return what embeds this rank's part of a batch."""
        if world_size() == 1 or resting:
            return self._network
        if self._wrapped is None:
            devices = [next(self._embedder.parameters()).device] if _on_gpu(self._embedder) else None
            self._wrapped = DistributedDataParallel(self._network, device_ids=devices)
        return self._wrapped

    def exchange(self, loss: nn.Module, *, resting: bool) -> None:
        """Average the gradients that the backward pass has not exchanged, but for those of a rank's own."""
        if world_size() > 1:
            left = [*loss.parameters(), *(self._embedder.parameters() if resting else ())]
            own = {id(p) for _, p, _ in sharded_weights(loss)}
            average([p for p in left if p.requires_grad and id(p) not in own])


def gradient_norm(weights: Sequence[nn.Parameter], loss: nn.Module) -> Float[Tensor, ""]:
    """Return the length of the gradient of all weights, those included that another rank has for itself."""
    own = {id(p) for _, p, _ in sharded_weights(loss)} if world_size() > 1 else set()
    norm = get_total_norm([p.grad for p in weights if p.grad is not None and id(p) not in own])
    if not own:
        return norm
    apart = get_total_norm([p.grad for p in weights if p.grad is not None and id(p) in own])
    return (norm.square() + total(apart.square())).sqrt()


@torch.no_grad()
def average(weights: Sequence[nn.Parameter]) -> None:
    """Give every rank the mean of the ranks' gradients; none where no rank has one."""
    if not weights:
        return
    there = torch.tensor([p.grad is not None for p in weights], dtype=torch.float32)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
    flat = torch.cat([there.to(parts[0]), *(part.flatten() for part in parts)])
    there, flat = (total(flat) / world_size()).split([len(there), len(flat) - len(there)])
    for p, some, mean in zip(weights, there.tolist(), flat.split([p.numel() for p in weights]), strict=True):
        p.grad = mean.view_as(p).clone() if some else None


@torch.no_grad()
def same_buffers(module: nn.Module) -> None:
    """Give every rank the mean of the ranks' running statistics, which each keeps of its own rows."""
    if world_size() == 1:
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.copy_(total(buffer) / world_size())


def same_numbers(values: Float[Tensor, " number"]) -> Float[Tensor, " number"]:
    """Return the mean of the ranks' numbers, of those that have one."""
    if world_size() == 1:
        return values
    known = ~values.isnan()
    summed = total(torch.stack([torch.where(known, values, 0.0), known.to(values.dtype)]))
    return summed[0] / summed[1]


def batch_norm_warning(embedder: Embedder) -> str | None:
    """Say what batch norm does across ranks, where it is not what it does in one process."""
    if world_size() == 1 or _on_gpu(embedder) or not (names := batch_norms(embedder.train())):
        return None
    return (
        f"'{names[0]}' and others normalise by the rows of one process, often of few classes, and "
        f"{world_size()} processes share a batch, so the run is not that of one process; freeze them "
        "(model.freeze_batch_norm = true, for pretrained weights) or take layer norm or group norm "
        "('nearfar/small-group-norm'). On GPUs they are synchronised."
    )


def _on_gpu(module: nn.Module) -> bool:
    return any(p.is_cuda for p in module.parameters())
