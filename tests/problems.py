"""What the tests share: small batches of embeddings with labels."""

from pathlib import Path

import torch
from torch import Tensor

# Losses that compare a batch with itself; those with proxies have tests of their own.
PAIR_LOSSES = ["contrastive", "multi_similarity", "supcon", "triplet"]

# What computes a block. "reference" is the definition in float64; the others must equal it.
BACKENDS = ["dense", "reference"]

golden_folder = Path(__file__).parent / "golden"


def batch(
    classes: int, per_class: int, dim: int, *, spread: float = 0.6, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Make unit float64 embeddings around random class centres, in shuffled order."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    labels = torch.arange(classes).repeat_interleave(per_class)
    x = centres[labels] + spread * torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    order = torch.randperm(len(labels), generator=generator)
    return torch.nn.functional.normalize(x[order], dim=1), labels[order]
