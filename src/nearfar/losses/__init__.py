"""Losses by name: `create` one, list their `names`, `describe` one.

loss = nearfar.losses.create("multi_similarity", beta=40.0, mining="multi_similarity")
value = loss(embeddings, labels)
"""

import importlib
from typing import TYPE_CHECKING, Any

from nearfar.losses import (
    adaface,
    angular,
    arcface,
    binomial_deviance,
    center,
    circle,
    clip,
    contrastive,
    cosface,
    curricular_face,
    fast_ap,
    histogram,
    l2_norm,
    large_margin_softmax,
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
    proxy_anchor,
    proxy_nca,
    proxy_nca_pp,
    quadruplet,
    rank_hard,
    ranked_list,
    recall_at_k,
    roadmap,
    siglip,
    smooth_ap,
    snr_contrastive,
    soft_triple,
    sphereface,
    sub_center_arcface,
    supcon,
    triplet,
    triplet_softmax,
    triplet_weighted,
    tuplet_margin,
    uniformity,
    zero_mean,
)
from nearfar.losses.parts.registry import describe, names, register_loss, settings
from nearfar.losses.parts.terms import Reduction, Terms

if TYPE_CHECKING:
    from nearfar.criterion.creation import create
    from nearfar.criterion.module import Loss
    from nearfar.criterion.ranks.shard_state import keep_shards, load_optimizer_state, optimizer_state
    from nearfar.criterion.statistics import Statistics
    from nearfar.criterion.sum import Sum

__all__ = [
    "Loss",
    "Reduction",
    "Statistics",
    "Sum",
    "Terms",
    "adaface",
    "angular",
    "arcface",
    "binomial_deviance",
    "center",
    "circle",
    "clip",
    "contrastive",
    "cosface",
    "create",
    "curricular_face",
    "describe",
    "fast_ap",
    "histogram",
    "keep_shards",
    "l2_norm",
    "large_margin_softmax",
    "lifted_structure",
    "lifted_structure_generalized",
    "load_optimizer_state",
    "margin",
    "multi_similarity",
    "names",
    "nca",
    "normalized_softmax",
    "npair",
    "npair_mined",
    "npair_ovo",
    "ntxent",
    "optimizer_state",
    "proxy_anchor",
    "proxy_nca",
    "proxy_nca_pp",
    "quadruplet",
    "rank_hard",
    "ranked_list",
    "recall_at_k",
    "register_loss",
    "roadmap",
    "settings",
    "siglip",
    "smooth_ap",
    "snr_contrastive",
    "soft_triple",
    "sphereface",
    "sub_center_arcface",
    "supcon",
    "triplet",
    "triplet_softmax",
    "triplet_weighted",
    "tuplet_margin",
    "uniformity",
    "zero_mean",
]

_homes = {
    "Loss": "module",
    "Statistics": "statistics",
    "Sum": "sum",
    "create": "creation",
    "keep_shards": "ranks.shard_state",
    "load_optimizer_state": "ranks.shard_state",
    "optimizer_state": "ranks.shard_state",
}
"""What stands above the formulas, and is loaded when it is first used."""


def __getattr__(name: str) -> Any:
    if name in _homes:
        return getattr(importlib.import_module(f"nearfar.criterion.{_homes[name]}"), name)
    raise AttributeError(f"module 'nearfar.losses' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_homes})
