"""Mining in the middle of a run: what the network finds hard now decides which batches come next."""

from dataclasses import dataclass

import torch

from nearfar import offline
from nearfar.config import Offline
from nearfar.offline import OfflineSampler
from nearfar.train.setup import Parts
from nearfar.train.validate import embed


@dataclass(frozen=True)
class Mining:
    """What a mining found.

    Attributes:
        mined: images that were embedded.
        hard, semi_hard: how many of them have such a negative.
        suspects: pairs of images that look like one thing under two labels; they are kept apart.
    """

    mined: int
    hard: int
    semi_hard: int
    suspects: int


def is_due(parts: Parts, wanted: Offline, step: int) -> bool:
    """Whether the sampler draws around mined triplets, and it is time."""
    return isinstance(parts.sampler, OfflineSampler) and step % wanted.every == 0 and step < parts.steps


def mine(parts: Parts, wanted: Offline, step: int, layout: torch.memory_format) -> Mining:
    """Embed a part of the training images, mine it, and let the sampler draw around what was found."""
    assert isinstance(parts.sampler, OfflineSampler)
    rows = offline.subset(parts.images.table.label, wanted.most, seed=step)
    embeddings, labels = embed(parts.embedder, parts.images, rows.tolist(), parts.device, layout)
    ids = torch.from_numpy(rows)
    found = offline.mine(embeddings, labels, ids=ids, margin=wanted.margin, guard=wanted.guard)
    parts.sampler.refresh(found)
    hard, semi_hard = int(found.hard.there.sum()), int(found.semi_hard.there.sum())
    return Mining(len(rows), hard, semi_hard, len(found.suspects.pairs))
