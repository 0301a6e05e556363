"""Samplers by name. The signature of each is the only list of its settings."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import Signature
from typing import Any

import numpy as np

from nearfar.data.samplers.balanced import Balanced, By
from nearfar.data.samplers.hard_classes import HardClassSampler
from nearfar.data.samplers.hierarchical import Hierarchical
from nearfar.data.samplers.members import as_count, read_labels
from nearfar.data.samplers.planned import PKSampler
from nearfar.data.samplers.protocol import BatchSampler
from nearfar.errors import DataError, suggest
from nearfar.missing import warn_of_missing
from nearfar.registered import Registry

Labels = Sequence[int] | np.ndarray
Function = Callable[..., BatchSampler]
registry: Registry[Function] = Registry("sampler")


def register_sampler(function: Function) -> Function:
    """Register a sampler under the name of its function.

    The function takes labels, classes_per_batch, images_per_class and seed; what follows by keyword are its
    settings.
    """
    registry.add(function, function)
    return function


def create_sampler(
    name: str,
    labels: Any,
    classes_per_batch: int,
    images_per_class: int,
    seed: int = 0,
    *,
    columns: Mapping[str, np.ndarray] | None = None,
    unlabelled: int | None = None,
    **settings: Any,
) -> BatchSampler:
    """Make a sampler by its name.

    Args:
        name: one of ``names()``.
        labels: class of each image.
        classes_per_batch: P.
        images_per_class: K, 2 or more.
        seed: of the draw.
        unlabelled: the label of images that have none, such as -1: no batch holds them.
        columns: of the table; a setting with one value for each image may name one of these.
        settings: of the sampler; see ``describe(name)``.

    Raises:
        NearfarError: if the name or a setting is unknown, or a value does not fit.
    """
    if isinstance(column := settings.get("super_classes"), str):
        settings["super_classes"] = _column(column, columns or {})
    complete = registry.complete(name, settings)
    labels = read_labels(labels)
    if unlabelled is not None:
        labels = np.ma.masked_equal(labels, as_count("unlabelled", unlabelled))
    else:
        warn_of_missing(labels, "they are drawn as one class", "create_sampler")
    return registry[name](labels, classes_per_batch, images_per_class, seed, **complete)


def names(pattern: str = "*") -> list[str]:
    """List the samplers whose name matches ``pattern`` (shell wildcards)."""
    return registry.names(pattern)


def describe(name: str) -> str:
    """Return the signature and the whole documentation of a sampler."""
    return registry.describe(name)


def settings(name: str) -> Signature:
    """Return the keyword settings of a sampler as a signature."""
    return registry.settings(name)


def _column(name: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    if name not in columns:
        raise DataError(
            f"super_classes names the column {name!r}, which the table does not have."
            f"{suggest(name, list(columns))} Its columns: {', '.join(columns) or 'none'}."
        )
    return columns[name]


@register_sampler
def pk(labels: Labels, classes_per_batch: int, images_per_class: int, seed: int = 0) -> BatchSampler:
    """P classes with K images of each; an epoch shows every image at least once.

    Classes are drawn in proportion to the hands of K images that they have left, so a class comes as often
    as its size asks for and no image waits for another epoch. The usual choice.
    """
    return PKSampler(labels, classes_per_batch, images_per_class, seed=seed)


@register_sampler
def balanced(
    labels: Labels, classes_per_batch: int, images_per_class: int, seed: int = 0, *, by: By = "class"
) -> BatchSampler:
    """P classes drawn anew for each batch: every class equally likely, or every image.

    An epoch draws as many images as there are; which ones is left to chance. A class shows all of its images
    before it shows one again.

    Args:
        by: "class" draws classes evenly: small ones count as much as large ones, and their images come more
            often. "instance" makes every image equally likely: the chance of a class is in proportion to its
            images, at most 1.

    Reference:
        Kang et al., ICLR 2020 (the terms). https://arxiv.org/abs/1910.09217
    """
    return PKSampler(labels, classes_per_batch, images_per_class, seed=seed, draw=partial(Balanced, by=by))


@register_sampler
def hierarchical(
    labels: Labels,
    classes_per_batch: int,
    images_per_class: int,
    seed: int = 0,
    *,
    super_classes: Sequence[Any] | np.ndarray | Mapping[Any, Any],
    super_classes_per_batch: int = 2,
) -> BatchSampler:
    """All classes of a batch come from G super-classes, so that like is compared with like.

    An epoch shows every image at least once.

    Args:
        super_classes: the super-class of each image, a mapping from class to super-class, or the name of a
            column of the table.
        super_classes_per_batch: G; P must be a multiple of it, and each super-class have P/G classes.

    Reference:
        Cakir et al., CVPR 2019 (FastAP's batches).
        https://openaccess.thecvf.com/content_CVPR_2019/html/Cakir_Deep_Metric_Learning_to_Rank_CVPR_2019_paper.html
    """
    chosen = partial(
        Hierarchical, super_classes=super_classes, super_classes_per_batch=super_classes_per_batch
    )
    return PKSampler(labels, classes_per_batch, images_per_class, seed=seed, draw=chosen)


@register_sampler
def hard_classes(
    labels: Labels,
    classes_per_batch: int,
    images_per_class: int,
    seed: int = 0,
    *,
    candidates: int | None = None,
    momentum: float = 0.5,
) -> BatchSampler:
    """Greedy batches of classes that violate the triplet constraint most, by running class means.

    The sampler learns from ``update(ids, embeddings)``, which is called after each step; see
    ``HardClassSampler`` for the rule.

    Args:
        candidates: a batch is chosen among this many random classes; None for four times P.
        momentum: of a class mean when its class is met again, in [0, 1).

    Reference:
        Sohn, NeurIPS 2016 ("hard negative class mining").
        https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective
    """
    return HardClassSampler(
        labels, classes_per_batch, images_per_class, seed=seed, candidates=candidates, momentum=momentum
    )
