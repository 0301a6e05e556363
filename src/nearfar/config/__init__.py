"""The configuration of a run: TOML in, frozen and checked values out.

config = nearfar.config.Config.load("birds.toml", ["loss.beta=40", "train.epochs=5"])
"""

from nearfar.errors import require

require("pydantic", "train")

# ruff: noqa: E402 (the sentence about the missing extra comes first)
from nearfar.config.config import Config
from nearfar.config.sections import (
    AddedLoss,
    Augment,
    Batch,
    Data,
    Loss,
    Memory,
    Model,
    Offline,
    Optimizer,
    Train,
)

__all__ = [
    "AddedLoss",
    "Augment",
    "Batch",
    "Config",
    "Data",
    "Loss",
    "Memory",
    "Model",
    "Offline",
    "Optimizer",
    "Train",
]
