"""Deep metric learning: similar things near, different things far.

    import nearfar
    loss = nearfar.losses.create("multi_similarity", beta=40.0)
    value = loss(embeddings, labels)

Everything is loaded when first used, so that `import nearfar` and `nearfar --help` need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfar import data, evaluate, losses, mining, models, offline, report, train
    from nearfar.errors import NearfarError
    from nearfar.memory import CrossBatchMemory
    from nearfar.models import Embedder, load
    from nearfar.pairs import Pairs
    from nearfar.similarity import Relevance

__version__ = "0.1.0"

__all__ = [
    "CrossBatchMemory",
    "Embedder",
    "NearfarError",
    "Pairs",
    "Relevance",
    "data",
    "evaluate",
    "load",
    "losses",
    "mining",
    "models",
    "offline",
    "report",
    "train",
]

_homes = {
    "CrossBatchMemory": "nearfar.memory",
    "Embedder": "nearfar.models",
    "NearfarError": "nearfar.errors",
    "load": "nearfar.models",
    "Pairs": "nearfar.pairs",
    "Relevance": "nearfar.similarity",
}


def __getattr__(name: str) -> Any:
    if name in _homes:
        return getattr(importlib.import_module(_homes[name]), name)
    if name in __all__:
        return importlib.import_module(f"nearfar.{name}")
    raise AttributeError(f"module 'nearfar' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
