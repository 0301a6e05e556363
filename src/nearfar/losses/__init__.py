"""Losses by name: `create` one, list their `names`, `describe` one.

loss = nearfar.losses.create("multi_similarity", beta=40.0, mining="multi_similarity")
value = loss(embeddings, labels)
"""

from nearfar.losses import contrastive, multi_similarity, normalized_softmax, supcon, triplet
from nearfar.losses.module import Loss, create
from nearfar.losses.registry import describe, names, register_loss, settings
from nearfar.losses.terms import Reduction, Statistics, Terms

__all__ = [
    "Loss",
    "Reduction",
    "Statistics",
    "Terms",
    "contrastive",
    "create",
    "describe",
    "multi_similarity",
    "names",
    "normalized_softmax",
    "register_loss",
    "settings",
    "supcon",
    "triplet",
]
