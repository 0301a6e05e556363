"""Retrieval on the classes held out of training: decides which epoch is the best."""

import warnings
from dataclasses import dataclass

import torch

from nearfar import evaluate
from nearfar.data import Images
from nearfar.evaluate import TieWarning
from nearfar.models import Embedder

BATCH = 128


@dataclass(frozen=True)
class Validation:
    """What is kept of a validation.

    Attributes:
        recall_at_1: share of images whose nearest neighbour is of their class.
        map_at_r: MAP@R; the best epoch is the one where it is highest.
        tied: share of images whose result hangs on the order of equal similarities.
    """

    recall_at_1: float
    map_at_r: float
    tied: float


def validate(
    embedder: Embedder, images: Images, device: torch.device, layout: torch.memory_format
) -> Validation:
    """Embed all images in float32 and search each among the others."""
    embedder.eval()
    rows, labels = [], []
    with torch.no_grad():
        for batch, label, _ in images.in_order(BATCH):
            pixels = embedder.preprocess.center(batch.to(device)).contiguous(memory_format=layout)
            rows.append(embedder(pixels).float().cpu())
            labels.append(label)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TieWarning)  # the run tells it once, in its log
        found = evaluate.retrieval(torch.cat(rows), torch.cat(labels), ks=(1,))
    return Validation(found.recall_at_k[1], found.map_at_r, found.tie_sensitive_fraction)
