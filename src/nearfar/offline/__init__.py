"""Offline mining: embed training images with the newest weights, see what is hard, draw batches around it.

    embeddings = embedder.encode(table)
    mined = nearfar.offline.mine(embeddings, torch.from_numpy(table.label))
    sampler.refresh(mined)          # an OfflineSampler

Importing it adds "offline" to the samplers of ``nearfar.data.create_sampler``.
"""

from nearfar.offline.guard import Suspects
from nearfar.offline.mined import Confusion, Found, Mined, check_settings, mine
from nearfar.offline.sampler import OfflineSampler
from nearfar.offline.subset import subset
from nearfar.offline.triplets import Triplets, count_triplets

__all__ = [
    "Confusion",
    "Found",
    "Mined",
    "OfflineSampler",
    "Suspects",
    "Triplets",
    "check_settings",
    "count_triplets",
    "mine",
    "subset",
]
