"""Training steps on a copy, to learn what they cost. The run itself is not touched."""

import copy
import time
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.config import Config
from nearfar.losses import Loss
from nearfar.models import Embedder
from nearfar.train.precision import Numerics, choose_numerics
from nearfar.train.randomness import own_randomness
from nearfar.train.setup import Parts

PIXELS = 10**6


@dataclass(frozen=True)
class Trial:
    """What a step costs.

    Attributes:
        seconds: of the fastest step.
        activations: bytes that the forward pass keeps for the backward pass.
    """

    seconds: float
    activations: int


def measured_numerics(config: Config, parts: Parts) -> Numerics:
    """Choose number format and layout for these parts, timed on a batch of at most a million pixels."""
    side, per_class = parts.embedder.preprocess.size, config.batch.images_per_class
    classes = max(2, min(config.batch.classes_per_batch, PIXELS // (side * side * per_class)))

    def seconds(numerics: Numerics) -> float:
        generator = torch.Generator().manual_seed(0)
        known = torch.from_numpy(parts.images.table.label).unique()[:classes]  # a loss may know no others
        labels = known.to(parts.device).repeat_interleave(per_class)
        images = torch.rand(len(labels), 3, side, side, generator=generator).to(parts.device)
        return try_steps(parts.embedder, parts.loss, images, labels, numerics=numerics).seconds

    return choose_numerics(config.train.precision, parts.device, seconds)


def try_steps(
    embedder: Embedder,
    loss: Loss,
    images: Float[Tensor, "n 3 h w"],
    labels: Int[Tensor, " n"],
    *,
    numerics: Numerics,
    steps: int = 1,
) -> Trial:
    """Train a copy for one step to warm up and then ``steps`` more that are timed."""
    with own_randomness():
        embedder, loss = copy.deepcopy(embedder).train(), copy.deepcopy(loss)
        embedder.to(memory_format=numerics.layout())
        weights = [p for p in (*embedder.parameters(), *loss.parameters()) if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=0.0)
        images = images.contiguous(memory_format=numerics.layout())
        best, kept = float("inf"), 0
        for _ in range(1 + steps):
            began = time.perf_counter()
            saved: dict[int, int] = {}
            own = {p.untyped_storage().data_ptr() for p in weights}

            def keep(tensor: Tensor, saved: dict[int, int] = saved, own: set[int] = own) -> Tensor:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in own:
                    saved[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                with numerics.autocast(images.device):
                    embeddings = embedder(images)
                value = loss(embeddings, labels)
            kept = max(kept, sum(saved.values()))
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if images.device.type == "cuda":
                torch.cuda.synchronize(images.device)
            best = min(best, time.perf_counter() - began)
    return Trial(best, kept)
