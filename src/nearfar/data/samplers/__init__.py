"""Which images make a batch: P classes with K images of each, by one of several rules.

    sampler = nearfar.data.create_sampler("balanced", labels, 32, 4, by="class")
    for epoch in range(20):
        for ids in sampler:                    # each time the next epoch; sampler.set_epoch(epoch) jumps
            ...
            sampler.update(ids, embeddings)    # some samplers learn from it

A file is a rule: dealing (every image is shown), balanced, hierarchical, hard_classes. Those whose epoch can
be planned give a ``PKSampler`` the classes of its batches; those that follow the training are a
``LiveSampler``.
"""

from nearfar.data.samplers.hard_classes import HardClassSampler
from nearfar.data.samplers.live import LiveSampler
from nearfar.data.samplers.planned import PKSampler
from nearfar.data.samplers.protocol import BatchSampler
from nearfar.data.samplers.registry import create_sampler, describe, names, register_sampler, settings
from nearfar.data.samplers.share import Share, own_part

__all__ = [
    "BatchSampler",
    "HardClassSampler",
    "LiveSampler",
    "PKSampler",
    "Share",
    "create_sampler",
    "describe",
    "names",
    "own_part",
    "register_sampler",
    "settings",
]
