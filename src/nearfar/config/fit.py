"""Defaults for a source of images that comes without a configuration: what this machine can train soon."""

import os
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nearfar.config.sections import Batch, Data, Train

# A network that is trained from nothing takes larger and more steps than one that was pretrained. Chosen on
# the validation classes of the pack `objects`.
_small: dict[str, dict[str, Any]] = {
    "model": {"backbone": "nearfar/small", "pretrained": False},
    "batch": {"classes_per_batch": 16},
    "optimizer": {"lr": 2e-3, "head_lr": 2e-3},
    "train": {"epochs": 40},
}


def fit(values: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` with absent keys filled in for this machine and these images; given keys stay."""
    given = values.get("model", {})
    backbone = given.get("backbone") if isinstance(given, dict) else None
    if backbone is None and not has_accelerator():
        backbone = "nearfar/small"
    small = isinstance(backbone, str) and backbone.startswith("nearfar/small")
    fitted = deepcopy(_small) if small else {}
    _fit_batch(fitted, values)
    for name, section in values.items():
        fitted[name] = {**fitted.get(name, {}), **section} if isinstance(section, dict) else section
    return fitted


def has_accelerator() -> bool:
    """Whether a GPU is likely, found without importing torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return shutil.which("nvidia-smi") is not None


def _fit_batch(fitted: dict[str, Any], values: dict[str, Any]) -> None:
    """Let a batch hold no more classes than a folder or a table of one's own has for training."""
    from nearfar.config.source import read_source
    from nearfar.data import train_and_test

    source = values["data"]["source"]
    if not isinstance(source, str) or not _exists(source):
        return
    try:
        data = Data(**values["data"])
    except ValidationError:  # told in its place, with all other settings
        return
    train, _ = train_and_test(read_source(data, source), seed=data.split_seed)
    classes = train.class_count()
    if classes < 4:
        fitted.setdefault("train", {})["validate_on"] = "none"
    elif values.get("train", {}).get("validate_on", "classes") == "classes":
        fraction = values.get("train", {}).get("validation_fraction", Train().validation_fraction)
        classes -= max(2, int(fraction * classes + 0.5)) if isinstance(fraction, float) else 0
    wanted = fitted.get("batch", {}).get("classes_per_batch", Batch().classes_per_batch)
    fitted.setdefault("batch", {})["classes_per_batch"] = max(2, min(wanted, classes))


def _exists(source: str) -> bool:
    try:
        return Path(source).exists()
    except (OSError, ValueError):  # longer than a name can be, or with a character that none has
        return False
