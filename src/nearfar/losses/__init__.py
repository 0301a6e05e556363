"""Losses by name: `create` one, list their `names`, `describe` one.

loss = nearfar.losses.create("multi_similarity", beta=40.0, mining="multi_similarity")
value = loss(embeddings, labels)
"""

from nearfar.losses import (
    angular,
    binomial_deviance,
    circle,
    clip,
    contrastive,
    lifted_structure,
    lifted_structure_generalized,
    margin,
    multi_similarity,
    nca,
    normalized_softmax,
    npair,
    npair_mined,
    npair_ovo,
    ntxent,
    quadruplet,
    rank_hard,
    ranked_list,
    siglip,
    snr_contrastive,
    supcon,
    triplet,
    triplet_softmax,
    triplet_weighted,
    tuplet_margin,
)
from nearfar.losses.creation import create
from nearfar.losses.module import Loss
from nearfar.losses.registry import describe, names, register_loss, settings
from nearfar.losses.terms import Reduction, Statistics, Terms

__all__ = [
    "Loss",
    "Reduction",
    "Statistics",
    "Terms",
    "angular",
    "binomial_deviance",
    "circle",
    "clip",
    "contrastive",
    "create",
    "describe",
    "lifted_structure",
    "lifted_structure_generalized",
    "margin",
    "multi_similarity",
    "names",
    "nca",
    "normalized_softmax",
    "npair",
    "npair_mined",
    "npair_ovo",
    "ntxent",
    "quadruplet",
    "rank_hard",
    "ranked_list",
    "register_loss",
    "settings",
    "siglip",
    "snr_contrastive",
    "supcon",
    "triplet",
    "triplet_softmax",
    "triplet_weighted",
    "tuplet_margin",
]
