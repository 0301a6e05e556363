"""Backbones: our own, timm's, or any module."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from math import floor
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.data.preprocess import Preprocess
from nearfar.errors import ConfigError, require, suggest
from nearfar.models.pretrained import load_into
from nearfar.models.small import Small

log = logging.getLogger("nearfar")

OWN: dict[str, Callable[[], nn.Module]] = {
    "nearfar/small": Small,
    "nearfar/small-group-norm": partial(Small, norm="group"),
}
OWN_SIZE = 48
CUSTOM = "custom"


@dataclass(frozen=True)
class Backbone:
    """A backbone and what was found out about it.

    Attributes:
        name: its name, or "custom" for a module that was given.
        module: maps images that are normalised to features.
        features: how many there are.
        spatial: whether the output is a map ``[n, features, h, w]``, to be pooled, or ``[n, features]``.
        preprocess: what it expects.
    """

    name: str
    module: nn.Module
    features: int
    spatial: bool
    preprocess: Preprocess


def names(pattern: str = "*") -> list[str]:
    """Return the names of backbones that match ``pattern`` (wildcards ``*`` and ``?``): ours, then timm's."""
    timm = require("timm", "train")
    return [name for name in OWN if fnmatch(name, pattern)] + timm.list_models(pattern)


def nearest(pattern: str) -> str:
    """Say what there is instead of a pattern that matches nothing, as half a sentence."""
    timm = require("timm", "train")
    known, tagged = names(), timm.list_pretrained()
    word = pattern.strip("*?").lower()
    # The word itself first, then ever shorter beginnings and ends of it.
    shorter = [word[:end] for end in range(len(word) - 1, 2, -1)]
    for piece in (
        [word, *shorter, *(word[start:] for start in range(1, len(word) - 2))] if 0 < len(word) < 60 else ()
    ):
        for what, found in (("backbones", known), ("weights", tagged)):
            like = [name for name in found if piece in name.lower()]
            if like:
                shown = ", ".join(like[:5]) + (f" and {len(like) - 5} more" if len(like) > 5 else "")
                return f"'*{piece}*' is in the names of {len(like):,} {what}: {shown}"
    return f"`nearfar models` lists all {len(known):,}"


def create_backbone(
    backbone: str | nn.Module, *, pretrained: bool, size: int | None, preprocess: Preprocess | None
) -> Backbone:
    """Return the backbone with its output probed.

    Args:
        backbone: a name of ``names()``, or a module that returns maps or vectors.
        pretrained: load weights; our own backbones have none.
        size: side of the images, None for the backbone's own.
        preprocess: given whole, instead of ``size``.

    Raises:
        ConfigError: if there is no such backbone, or its output is neither maps nor vectors.
    """
    if size is not None and preprocess is not None:
        raise ConfigError("give either size or preprocess, not both; preprocess has its own size.")
    if isinstance(backbone, nn.Module):
        chosen = preprocess or imagenet(size or 224)
        return probe(CUSTOM, backbone, chosen)
    if backbone in OWN:
        if pretrained:
            log.info("backbone '%s' has no pretrained weights; it starts from nothing.", backbone)
        return probe(backbone, OWN[backbone](), preprocess or Preprocess(size or OWN_SIZE))
    return create_from_timm(backbone, pretrained=pretrained, size=size, preprocess=preprocess)


def create_from_timm(
    name: str, *, pretrained: bool, size: int | None, preprocess: Preprocess | None
) -> Backbone:
    """Return a backbone of timm, which pools tokens itself and leaves maps to us."""
    timm = require("timm", "train")
    if not timm.is_model(name):
        known = [*OWN, *timm.list_models()]
        raise ConfigError(
            f"unknown backbone '{name}'.{suggest(name, known)} `nearfar models PATTERN` lists them."
        )
    try:
        settings = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ConfigError(f"timm knows no weights '{name}'; leave out what follows the point.") from error
    if settings is None:  # an architecture without weights says nothing of its input
        chosen, fixed = preprocess or imagenet(size or 224), {}
    else:
        chosen = preprocess or expected_by(settings.to_dict(), size)
        own = settings.input_size[-1]
        fixed = {"img_size": chosen.size} if settings.fixed_input_size and chosen.size != own else {}
    module = timm.create_model(name, pretrained=False, num_classes=0, **fixed)
    if pretrained:
        origin = load_into(module, name, **fixed)
        if origin is not None and preprocess is None:
            chosen = replace(chosen, mean=origin.mean, std=origin.std)
    maps = run_blank(name, module, chosen.size, module.forward_features)
    # Tokens, maps of several resolutions and maps with the channels last stay with the pooling that the
    # backbone was trained with, and so do those that cannot do without.
    single = isinstance(maps, Tensor) and maps.ndim == 4
    if single and getattr(module, "output_fmt", "NCHW") != "NHWC":
        with suppress(AssertionError):  # "Cannot disable pooling", raised before anything is changed
            module.reset_classifier(0, "")
    return probe(name, module, chosen)


def expected_by(settings: dict[str, Any], size: int | None) -> Preprocess:
    """Return the preprocessing that timm's settings of a model ask for, at ``size`` if given."""
    own = settings["input_size"][-1]
    size = size or own
    squash = settings.get("crop_mode") == "squash"
    return Preprocess(
        size=size,
        resize=max(size, floor(size / settings["crop_pct"])),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        interpolation="bicubic" if settings["interpolation"] == "bicubic" else "bilinear",
        fit="squash" if squash else "crop",
    )


def imagenet(size: int) -> Preprocess:
    """Return the preprocessing that most networks trained on ImageNet expect."""
    return Preprocess(size, floor(size / 0.875), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def probe(name: str, module: nn.Module, preprocess: Preprocess) -> Backbone:
    """Return the backbone with the shape of its output, from one blank image."""
    output = run_blank(name, module, preprocess.size, module)
    if not isinstance(output, Tensor) or output.ndim not in (2, 4):
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"backbone '{name}' returns {shape} for one image; "
            "expected maps [n, features, h, w] or vectors [n, features]."
        )
    return Backbone(name, module, output.shape[1], output.ndim == 4, preprocess)


def run_blank(name: str, module: nn.Module, size: int, run: Callable[[Tensor], Any]) -> Any:
    """Return what ``run``, the module or a part of it, makes of one image of zeros."""
    image = next(module.parameters(), torch.empty(0)).new_zeros(1, 3, size, size)
    try:
        with evaluating(module), torch.no_grad():
            return run(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise ConfigError(
            f"backbone '{name}' does not take images of {size} x {size} px: {reason}."
        ) from error


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and each part of it back as it was."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in training.items():
            part.training = mode
