"""Retrieval on the classes held out of training: decides which epoch is the best."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from nearfar import evaluate
from nearfar.data import Images
from nearfar.evaluate import TieWarning
from nearfar.models import Embedder
from nearfar.train.ranks import own_batches, put_together, same_buffers

BATCH = 128


@dataclass(frozen=True)
class Validation:
    """What is kept of a validation.

    Attributes:
        recall_at_1: share of images whose nearest neighbour is of their class.
        map_at_r: MAP@R; the best epoch is the one where it is highest, of several the last: once all held-out
            images are found, what was trained longer is the better guess.
        tied: share of images whose result hangs on the order of equal similarities.
    """

    recall_at_1: float
    map_at_r: float
    tied: float


def embed(
    embedder: Embedder,
    images: Images,
    rows: Sequence[int],
    device: torch.device,
    layout: torch.memory_format,
) -> tuple[Float32[Tensor, "row dim"], Int64[Tensor, " row"]]:
    """Return the float32 embeddings of some images, and their labels; the network is left in ``eval``."""
    same_buffers(embedder)
    embedder.eval()
    own, found = own_batches(len(rows), BATCH), [torch.empty(0, embedder.dim)]
    with torch.no_grad():
        for batch, _, _ in images.batches([rows[places.start : places.stop] for places in own]):
            pixels = embedder.preprocess.center(batch.to(device)).contiguous(memory_format=layout)
            found.append(embedder(pixels).float().cpu())
    return put_together(torch.cat(found), own), images.labels[torch.as_tensor(rows)]


def validate(
    embedder: Embedder, images: Images, device: torch.device, layout: torch.memory_format
) -> Validation:
    """Embed all images in float32 and search each among the others."""
    embeddings, labels = embed(embedder, images, range(len(images)), device, layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TieWarning)  # the run tells it once, in its log
        found = evaluate.retrieval(embeddings, labels, ks=(1,), across_ranks=True)
    return Validation(found.recall_at_k[1], found.map_at_r, found.tie_sensitive_fraction)
