"""Classify triplets as easy, semi-hard and hard, by counting and without a list of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.mining.rounding import slack
from nearfar.offline.rows import checked
from nearfar.pairs import Pairs
from nearfar.similarity import Count, Measure

# Positive pairs of one block: their anchors, candidates and similarities are listed, 20 bytes each.
LISTED = 2_000_000


@dataclass(frozen=True)
class Triplets:
    """How many triplets (anchor, positive, negative) there are of each kind.

    With v = D_an - D_ap, how much farther the negative is than the positive, and the margin m:

        hard  v <= 0        semi-hard  0 < v <= m        easy  v > m

    D is 1 - s for cosine similarity. Every triplet is of one kind.
    """

    easy: int
    semi_hard: int
    hard: int

    @property
    def total(self) -> int:
        """All triplets."""
        return self.easy + self.semi_hard + self.hard


def count_triplets(
    embeddings: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    *,
    margin: float = 0.2,
    similarity: Measure = "cosine",
    backend: str = "auto",
    unlabelled: int | None = None,
) -> Triplets:
    """Count the triplets of each kind, exactly.

    For each positive pair the negatives above two similarities are counted, s_ap and s_ap - m; the negatives
    are streamed and the positive pairs come in blocks of anchors, so that neither grows with the square of
    the set. What differs by rounding alone counts as equal.

    Args:
        embeddings: [n, dim].
        labels: class of each row.
        margin: m (> 0), in similarity, or in distance for a Euclidean measure.
        similarity: "cosine", "dot", "euclidean" or "squared_euclidean".
        backend: that does the arithmetic.
        unlabelled: rows with this label are left out.

    Raises:
        NearfarError: if shapes, types or the margin do not fit, or a value is NaN or infinite.
    """
    check_margin(margin)
    embeddings, labels, _ = checked(embeddings, labels, similarity, unlabelled)
    kinds = np.zeros(3, dtype=np.int64)
    for pairs in blocks(embeddings, labels, similarity, backend):
        kinds += kinds_of(pairs, margin).sum(axis=0)
    return Triplets(*kinds.tolist())


def check_margin(margin: float) -> None:
    """Refuse a margin that is not positive.

    Raises:
        NearfarError: with its value.
    """
    if not margin > 0:
        raise NearfarError(f"triplets are classified with a positive margin; got {margin}.")


def kinds_of(pairs: Pairs, margin: float) -> Int64[np.ndarray, "anchor kind"]:
    """Count the easy, semi-hard and hard triplets of each anchor."""
    anchor, s = pairs.positives.anchor, pairs.positives.similarity.detach()
    equal = s - slack(pairs)[anchor]
    nearer, inside, every = pairs.stream(
        Count(above=equal, per="positive"), Count(above=equal - margin, per="positive"), Count(per="positive")
    )
    kinds = torch.stack([every - inside, inside - nearer, nearer], 1).round().long()
    total = torch.zeros(len(pairs), 3, dtype=torch.int64, device=s.device).index_add(0, anchor, kinds)
    return total.cpu().numpy()


def blocks(
    embeddings: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    similarity: Measure = "cosine",
    backend: str = "auto",
    listed: int = LISTED,
) -> Iterator[Pairs]:
    """Compare all rows with all, some anchors at a time, so that no more positives than these are listed."""
    n = len(embeddings)
    _, label, size = torch.unique(labels, return_inverse=True, return_counts=True)
    block = (size[label] - 1).cumsum(0) // listed
    starts = [0, *(torch.nonzero(block[1:] > block[:-1]).squeeze(1) + 1).tolist(), n]
    if len(starts) == 2:
        yield Pairs.within(embeddings, labels, similarity=similarity, backend=backend)
        return
    for start, end in pairwise(starts):
        rows = torch.arange(start, end, device=embeddings.device)
        yield Pairs.between(
            embeddings[start:end],
            labels[start:end],
            embeddings,
            labels,
            own=rows,
            similarity=similarity,
            backend=backend,
        )
