"""What the tests share: small batches of embeddings with labels."""

from pathlib import Path

import torch
from torch import Tensor

# Losses that compare a batch with itself; those with proxies have tests of their own.
PAIR_LOSSES = [
    "binomial_deviance",
    "circle",
    "contrastive",
    "fast_ap",
    "lifted_structure_generalized",
    "multi_similarity",
    "nca",
    "npair",
    "npair_mined",
    "npair_ovo",
    "ntxent",
    "ranked_list",
    "recall_at_k",
    "roadmap",
    "siglip",
    "smooth_ap",
    "snr_contrastive",
    "supcon",
    "triplet",
    "tuplet_margin",
]

# Losses over triplets: for some of them only rules that name negatives can mine.
TRIPLET_LOSSES = ["angular", "margin", "quadruplet", "rank_hard", "triplet_softmax", "triplet_weighted"]

# The same as pair losses, but the anchors that a candidate is a negative of count as well: an anchor that is there twice counts
# twice, and against candidates a rule must narrow by similarity.
TWO_SIDED_LOSSES = ["clip", "lifted_structure"]

# The negatives of an anchor are held against the positives of all.
WHOLE_BATCH_LOSSES = ["histogram"]

# What computes a block. "reference" is the definition in float64; the others must equal it.
BACKENDS = ["dense", "tiled", "reference"]

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
