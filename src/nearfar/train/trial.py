"""Training steps on a copy, to learn what they cost. The run itself is not touched."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nearfar.models import Embedder
from nearfar.train.precision import Numerics
from nearfar.train.randomness import own_randomness

PIXELS = 10**6


@dataclass(frozen=True)
class Trial:
    """What a step costs.

    Attributes:
        seconds: of the fastest step.
        activations: bytes that the forward pass keeps for the backward pass.
        forward: seconds of a forward pass that keeps nothing, where that was tried.
    """

    seconds: float
    activations: int
    forward: float = 0.0


def try_network(embedder: Embedder, images: Float[Tensor, "n 3 h w"], *, numerics: Numerics) -> Trial:
    """Send images through a copy of the network without a graph, and forward and back; each twice."""
    with own_randomness():
        embedder = copy.deepcopy(embedder).train()
        embedder.to(memory_format=numerics.layout())
        weights = [p for p in embedder.parameters() if p.requires_grad]
        images = images.contiguous(memory_format=numerics.layout())
        forward, both, kept = float("inf"), float("inf"), 0
        for _ in range(2):
            began = time.perf_counter()
            with torch.no_grad(), numerics.autocast(images.device):
                embedder(images)
            forward = min(forward, _since(began, images.device))
            began = time.perf_counter()
            with _Kept(weights) as keeping, numerics.autocast(images.device):
                embeddings = embedder(images)
            kept = max(kept, keeping.bytes())
            embeddings.backward(torch.ones_like(embeddings))
            both = min(both, _since(began, images.device))
    return Trial(both, kept, forward)


def try_loss(loss: nn.Module, embeddings: Float[Tensor, "n dim"], labels: Int[Tensor, " n"]) -> float:
    """Return the seconds that a copy of the loss takes, gradient included."""
    with own_randomness():
        loss, embeddings = copy.deepcopy(loss), embeddings.clone().requires_grad_()
        best = float("inf")
        for _ in range(2):
            began = time.perf_counter()
            loss(embeddings, labels).backward()
            best = min(best, _since(began, embeddings.device))
    return best


class _Kept:
    """Counts what is kept for the backward pass while it is entered, each storage once, weights not."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.sizes: dict[int, int] = {}
        own = {p.untyped_storage().data_ptr() for p in weights}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                self.sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        self.hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)

    def __enter__(self) -> "_Kept":
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)

    def bytes(self) -> int:
        """Return how much it was."""
        return sum(self.sizes.values())


def _since(began: float, device: torch.device) -> float:
    """Return the seconds since then, once the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
