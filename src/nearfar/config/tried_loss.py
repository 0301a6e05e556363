"""Losses and samplers are made once before a run begins, so that what they refuse is refused at once."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from nearfar.config.sections import AddedLoss, Batch, Loss
from nearfar.data.samplers import create_sampler
from nearfar.errors import ConfigError, NearfarError, shortened
from nearfar.losses import create
from nearfar.losses.parts.registry import has_proxies

CLASSES, IMAGES, DIM = 4, 3, 8
REFUSALS = (NearfarError, ValueError, OverflowError)


def try_loss(place: str, loss: Loss | AddedLoss) -> None:
    """Make a loss and let it compare a few embeddings.

    Args:
        place: its table in the file, such as "loss".
        loss: what the table says.

    Raises:
        ConfigError: if it refuses a setting, or if its value or gradient is not finite; the key is named.
    """
    given = dict(loss.settings)
    for key in ("similarity", "reduction", "tilt", "sample"):
        if getattr(loss, key) != type(loss).model_fields[key].default:
            given[key] = getattr(loss, key)
    if loss.mining is not None:
        given["mining"] = loss.mining
    _blame(place, given, lambda settings: _fault_of_a_loss(loss.name, settings))


def try_sampler(batch: Batch) -> None:
    """Make a sampler for a few labels; one that needs to know the classes has to wait for them.

    Raises:
        ConfigError: if it refuses a setting; the key is named.
    """
    if not isinstance(batch.sampler, dict) or "super_classes" in batch.sampler:
        return
    name = batch.sampler["name"]
    labels = np.repeat(np.arange(CLASSES), IMAGES)
    given = {key: value for key, value in batch.sampler.items() if key != "name"}

    def fault(settings: Mapping[str, Any]) -> str | None:
        try:
            create_sampler(name, labels, 2, 2, 0, columns={}, **settings)
        except REFUSALS as error:
            return str(error)
        return None

    _blame("batch.sampler", given, fault)


def _blame(
    place: str, given: Mapping[str, Any], fault_with: Callable[[Mapping[str, Any]], str | None]
) -> None:
    """Find the setting without which there would be no fault."""
    fault = fault_with(given)
    if fault is None:
        return
    for key, value, others in _without_one(given):
        if fault_with(others) is None:
            raise ConfigError(f"{place}.{key} = {shortened(value)} does not do: {fault}")
    named = ", ".join(f"{place}.{key}" for key in given) or place
    raise ConfigError(f"{named}: {fault}")


def _without_one(given: Mapping[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for key, value in given.items():
        if isinstance(value, dict):  # a mining rule with settings of its own
            for inner in value:
                if inner != "name":
                    less = {k: v for k, v in value.items() if k != inner}
                    yield f"{key}.{inner}", value[inner], {**given, key: less}
        yield key, value, {k: v for k, v in given.items() if k != key}


def _fault_of_a_loss(name: str, settings: Mapping[str, Any]) -> str | None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(CLASSES * IMAGES, DIM, generator=generator).requires_grad_()
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES)
    known: dict[str, Any] = {"classes": CLASSES, "dim": DIM} if has_proxies(name) else {}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loss = create(name, across_ranks=False, **known, **settings)
            value = loss(embeddings, labels)
            value.backward()
        except REFUSALS as error:
            return str(error)
    gradient = embeddings.grad
    if torch.isfinite(value) and (gradient is None or torch.isfinite(gradient).all()):
        return None
    return "it makes the loss or its gradient infinite or no number."
