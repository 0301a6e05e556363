"""Large batches on small devices: a step in two passes that leaves the gradient of one (GradCache).

The loss L(e) of embeddings e = f(x) needs those of the whole batch at once; the network f needs only a chunk
C of it at a time, since ∂L/∂θ = Σ_C ∂L/∂e_C · ∂e_C/∂θ. Pass 1 embeds the chunks and keeps no graph; the loss
of all embeddings gives its value and ∂L/∂e; pass 2 embeds each chunk again and sends its ∂L/∂e_C back. So the
network keeps for its backward pass what a chunk needs, at the price of one more forward pass.

Reference:
    Gao et al., RepL4NLP 2021. https://arxiv.org/abs/2101.06983
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from nearfar.errors import NearfarError
from nearfar.inputs import Labels
from nearfar.train.randomness import RandomState

APART = 0.01
"""Relative distance of the embeddings of both passes above which they are not those of one network."""


def two_pass(
    model: nn.Module,
    loss: Callable[..., Tensor],
    images: Tensor | Sequence[Tensor],
    labels: Labels,
    chunk: int,
    *,
    prepare: Callable[..., Tensor] | None = None,
    autocast: Callable[[], AbstractContextManager[object]] | None = None,
    scaler: torch.amp.GradScaler | None = None,
    **loss_kwargs: Any,
) -> Float[Tensor, ""]:
    """Add to ``.grad`` of network and loss what ``loss(model(images), labels).backward()`` would.

        value = two_pass(model, loss, images, labels, chunk=64)
        optimizer.step()

    Every chunk is embedded twice from the same random state, so dropout leaves out the same units both times.
    The loss is called once, and a memory takes in the batch once. Under ``DistributedDataParallel`` the
    gradients of all chunks are exchanged once, with the last.

    Args:
        model: maps a chunk of images to embeddings [rows, dim], each row by itself.
        loss: called as ``loss(embeddings, labels, **loss_kwargs)``; returns a scalar.
        images: of the batch; or several tensors with a row for each image, which are cut alike and given to
            the network side by side.
        labels: of the batch, as the loss takes them.
        chunk: images at a time; 0, or as many as there are, for one pass.
        prepare: makes of a chunk what the network takes, such as floats on the GPU from bytes in main
            memory. It is called twice as well, and gets no gradient.
        autocast: makes the context in which the network runs; without it, that of the caller.
        scaler: scales the loss before its gradient is taken, as float16 needs it.

    Returns:
        The value of the loss, without gradient.

    Raises:
        NearfarError: if layers take statistics over the batch, or keep some of each batch they see, since
            chunks would change them without a word; or if the loss gives no scalar.
    """
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 0:
        raise NearfarError(f"chunk must be a whole number of images, or 0 for one pass; got {chunk!r}.")
    tensors = (images,) if isinstance(images, Tensor) else tuple(images)
    n = _rows(tensors)
    network = _Network(model, prepare, autocast or _as_here(model))
    wrapped = isinstance(model, DistributedDataParallel)
    # Wrapped, even a single chunk takes two passes: another rank may have two, and all meet in one order.
    if chunk == 0 or (n <= chunk and not wrapped):
        value = loss(network.embed(model, tensors), labels, **loss_kwargs)
        _backward(value, scaler)
        return value.detach()

    if (refusal := batch_norm_refusal(model, chunk, n)) is not None:
        raise NearfarError(refusal)
    pieces = [tuple(x[start : start + chunk] for x in tensors) for start in range(0, max(n, 1), chunk)]
    # The bare network: DistributedDataParallel would send its buffers to all ranks before each chunk.
    bare = model.module if wrapped else model
    states, found = [], []
    with torch.no_grad():
        before = _versions(model)
        for piece in pieces:
            states.append(network.random())
            found.append(network.embed(bare, piece))
            if len(found) == 1:
                _refuse_changed(model, before)
    embeddings = torch.cat(found).requires_grad_()
    del found
    value = loss(embeddings, labels, **loss_kwargs)
    _backward(value, scaler)
    gradient = torch.zeros_like(embeddings) if embeddings.grad is None else embeddings.grad

    after, apart = network.random(), embeddings.new_zeros(())
    firsts, parts = embeddings.detach().split(chunk), gradient.split(chunk)
    for piece, state, first, part in zip(pieces, states, firsts, parts, strict=True):
        state.restore()
        with nullcontext() if piece is pieces[-1] else _own_gradients(model):
            again = network.embed(model, piece)
            apart = torch.maximum(apart, _distance(again.detach(), first))
            if again.requires_grad:  # else the loss alone learns
                with _plain(again.device):
                    again.backward(part)
    after.restore()
    if apart > APART:
        raise NearfarError(
            f"the embeddings of the second pass are {float(apart):.0%} away from those of the first, so the "
            "gradient is wrong: something draws from a generator of its own, or keeps a state; let it draw "
            "from torch's, numpy's or python's, or set batch.chunk = 0."
        )
    return value.detach()


def batch_norms(model: nn.Module) -> list[str]:
    """Name the layers that, as they stand now, normalise by statistics of the batch."""
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None)
    ]


def batch_norm_refusal(model: nn.Module, chunk: int, n: int, advice: str = "") -> str | None:
    """Say why a batch of ``n`` images cannot go in chunks, if batch norm is in the way.

    Args:
        advice: what to do; without it, all that can be done.
    """
    names = batch_norms(model)
    if not names:
        return None
    advice = advice or (
        "where the weights are pretrained, freeze them (model.freeze_batch_norm = true), else take a network "
        "with layer norm or group norm, or set batch.chunk = 0."
    )
    more = f" and {len(names) - 1} more layers" if len(names) > 1 else ""
    return (
        f"'{names[0]}'{more} normalise by the statistics of a batch, and those of a chunk of {chunk} images "
        f"are not those of {n}: the gradient would be another one; {advice}"
    )


class _Network:
    """How chunks are embedded, and what they draw from."""

    def __init__(
        self,
        model: nn.Module,
        prepare: Callable[..., Tensor] | None,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.prepare, self.autocast = prepare, autocast
        self.devices = {p.device for p in model.parameters() if p.device.type != "cpu"}

    def random(self) -> RandomState:
        return RandomState.now(self.devices)

    def embed(self, model: nn.Module, piece: tuple[Tensor, ...]) -> Float[Tensor, "rows dim"]:
        if self.prepare is not None:
            with torch.no_grad():
                piece = (self.prepare(*piece),)
        with self.autocast():
            embeddings = model(*piece)
        # A weight that was cast without a graph would be taken again, and get no gradient.
        torch.clear_autocast_cache()
        if not isinstance(embeddings, Tensor) or embeddings.ndim != 2:
            shape = (
                list(embeddings.shape) if isinstance(embeddings, Tensor) else f"a {type(embeddings).__name__}"
            )
            raise NearfarError(f"the model returns {shape}; expected embeddings [n, dim].")
        return embeddings


def _rows(tensors: tuple[Tensor, ...]) -> int:
    counts = {len(x) for x in tensors}
    if len(counts) != 1:
        raise NearfarError(
            f"images are tensors of {sorted(counts)} rows; give one row for each image in all of them."
        )
    return counts.pop()


def _own_gradients(model: nn.Module) -> AbstractContextManager[None]:
    """Keep the gradients of a chunk on this rank, where there are others."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def _as_here(model: nn.Module) -> Callable[[], AbstractContextManager[object]]:
    """Return the autocast that is on for the model's device now, to be entered again for every chunk."""
    device = next((p.device.type for p in model.parameters()), "cpu")
    if not torch.is_autocast_enabled(device):
        return nullcontext
    dtype = torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype)


@contextmanager
def _plain(device: torch.device) -> Iterator[None]:
    """Leave the caller's autocast: a backward pass computes in the types of its forward pass."""
    with torch.autocast(device.type, enabled=False):
        yield


def _backward(value: Tensor, scaler: torch.amp.GradScaler | None) -> None:
    if value.ndim:
        raise NearfarError(
            f"the loss returned values of shape {list(value.shape)}; give it a reduction that makes them one."
        )
    with _plain(value.device):
        (value if scaler is None else scaler.scale(value)).backward()


def _distance(a: Tensor, b: Tensor) -> Float[Tensor, ""]:
    """Return |a - b| over |b|; 0 for no rows."""
    length = torch.linalg.vector_norm(b.float())
    apart = torch.linalg.vector_norm(a.float() - b.float())
    return (apart / length.masked_fill(length == 0, 1.0)).to(a.dtype)


def _versions(model: nn.Module) -> dict[str, tuple[int, int]]:
    """How often each buffer was written to, which costs no look at what it holds."""
    return {name: (id(x), x._version) for name, x in model.named_buffers()}


def _refuse_changed(model: nn.Module, before: dict[str, tuple[int, int]]) -> None:
    for name, (place, version) in _versions(model).items():
        was = before.get(name)
        if was is not None and was[0] == place and was[1] != version:
            raise NearfarError(
                f"'{name}' of the model is written to while it embeds, and two passes in chunks would write "
                "to it more often than one; put that layer into eval(), or set batch.chunk = 0."
            )
