"""A loss from its name and settings."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.criterion.asked import check_words, read_classes, read_dim, read_mark, read_share, read_tilt
from nearfar.criterion.class_weights import ClassWeights
from nearfar.criterion.module import Loss
from nearfar.criterion.one_number import learnable
from nearfar.criterion.ranks.shard import Shard
from nearfar.errors import NearfarError
from nearfar.losses.parts.registry import registry
from nearfar.losses.parts.terms import Reduction
from nearfar.mining import Rule
from nearfar.mining import create as create_rule
from nearfar.similarity import Measure, check_backend
from nearfar.unseen import check_settings

MOST_NUMBERS = 2**40


def create(
    name: str,
    *,
    mining: str | Mapping[str, Any] | Rule | None = None,
    similarity: Measure = "cosine",
    reduction: Reduction | None = None,
    backend: str = "auto",
    across_ranks: bool = True,
    classes: int | Sequence[int] | Int[Tensor, " n"] | None = None,
    dim: int | None = None,
    learn: bool = True,
    sample: float = 1.0,
    class_weights: Mapping[int, float] | Sequence[float] | Float[Tensor, " class"] | None = None,
    tilt: float = 1.0,
    sharded: bool = False,
    unlabelled: int | None = None,
    **settings: Any,
) -> Loss:
    """Create a loss by name.

    Args:
        name: one of ``nearfar.losses.names()``.
        mining: a rule's name, a mapping such as ``{"name": "semi_hard", "margin": 0.1}``, or a rule; None
            takes all pairs. A rule's setting that the loss also has (``margin``) is the loss's unless given.
        similarity: "cosine" (embeddings are normalised here), "dot", "euclidean" or "squared_euclidean".
        reduction: "mean", "mean_valid", "mean_terms", "mean_active", "tilted", "sum", "none", or None for the
            paper's own; see ``Terms.reduce``.
        backend: what computes it: "auto", "tiled" (flat memory, no double backward), "dense" or "reference".
        across_ranks: compare with the embeddings of all ranks, where torch.distributed is initialised.
        classes: for a loss with something learned for each class, the labels of the training set (repeats
            are fine), or their count when they are 0, 1, 2, …
        dim: for a loss with proxies, the dimension of the embeddings.
        learn: train what the paper trains with the network (``loss.learned``), or leave it as given.
        sample: for a loss with proxies, the share of the classes that a training step compares with: those
            of the batch and a random part of the others, new for every step (An et al., PartialFC, CVPR
            2022, https://arxiv.org/abs/2203.15565). The gradient is exact for the classes chosen; others get
            0. The sum over the other classes is then smaller than the full one (its expected value, less the
            classes of the batch, is ``sample`` of it), so that the loss is lower and pushes less: by a few
            classes more, rarely by the nearest. ``loss.eval()`` compares with all.
        class_weights: how much the anchors of a class count, on top of ``weights``: by label (classes that
            are not named count 1), or one for each of ``classes`` in order of their labels.
        tilt: t of ``reduction="tilted"``: above 0 for more weight on hard samples, below 0 for less.
        sharded: for a loss with proxies, share the classes out over the ranks: each has, and trains, those of
            a run of the classes (PartialFC across ranks). The value and all gradients are those of one
            process. Every rank must create, save and load it; no wrapper may average its proxies (see
            ``keep_shards`` and docs/scale.md). In one process it changes nothing.
        unlabelled: the label of rows that have none, such as the -1 of many data sets: they are left out, as
            anchors and as candidates (0 with ``reduction="none"``). None takes it as a class like others.
        **settings: the loss's own hyper-parameters; see ``nearfar.losses.describe(name)``.

    Raises:
        NearfarError: if a name or a setting is unknown.
    """
    entry = registry[name]
    check_words(similarity, reduction, {"across_ranks": across_ranks, "learn": learn, "sharded": sharded})
    check_backend(backend)
    complete = registry.complete(name, settings)
    rule = create_rule(mining, shared=complete)
    if classes is not None and not (entry.proxies or entry.per_class):
        raise NearfarError(f"{name} learns nothing for each class; create it without classes=….")
    unlabelled = None if unlabelled is None else read_mark(unlabelled)
    class_labels = None if classes is None else read_classes(name, classes, unlabelled)
    chosen = (entry.reduction if rule is None else entry.mined) if reduction is None else reduction
    tilt, sample = read_tilt(tilt, chosen), read_share(sample)
    if entry.proxies is not None:
        entry.proxies.check(name, similarity, complete)
        if rule is not None:
            raise NearfarError(
                f"mining chooses pairs, and {name} compares with classes; create it without mining."
            )
    start = (torch.tensor(value) for value in entry.running.values())
    check_settings(entry.function, *start, **complete)
    if sample < 1 and (entry.proxies is None or not entry.proxies.sampled):
        raise NearfarError(
            f"{name} compares with no classes but an anchor's own; create it without sample=…."
        )
    shard = None
    if sharded:
        if entry.proxies is None or class_labels is None:
            raise NearfarError(
                f"{name} has no proxies that ranks could share out; create it without sharded."
            )
        if not across_ranks:
            raise NearfarError(
                "sharded=True shares the classes out over the ranks, and across_ranks=False keeps a loss "
                "within its rank; choose one of them."
            )
        shard = Shard.of(len(class_labels), entry.proxies.count(complete))
    each = None if class_labels is None else len(class_labels)
    return Loss(
        name,
        complete,
        mining=rule,
        similarity=similarity,
        reduction=chosen,
        backend=backend,
        across_ranks=across_ranks,
        proxies=_create_proxies(name, class_labels, dim, complete, shard) if entry.proxies else None,
        learned={key: learnable(key, complete[key], each) for key in entry.learned} if learn else None,
        class_labels=class_labels,
        sample=sample,
        class_weights=None if class_weights is None else ClassWeights.of(class_weights, class_labels),
        tilt=tilt,
        shard=shard,
        unlabelled=unlabelled,
    )


def _create_proxies(
    name: str, class_labels: Tensor | None, dim: int | None, settings: Mapping[str, Any], shard: Shard | None
) -> Tensor:
    """Draw the vectors of each class, or of each of this rank's classes, as the loss's paper does."""
    if class_labels is None or dim is None:
        raise NearfarError(
            f"{name} learns a proxy for each class; create it with classes=… (the training labels, or how "
            "many there are) and dim=… (of the embeddings)."
        )
    kind = registry[name].proxies
    assert kind is not None
    rows, dim = len(class_labels) * kind.count(settings), read_dim(dim)
    start = partial(kind.start, len(class_labels), kind.count(settings), dim)
    if rows * dim > MOST_NUMBERS:
        raise NearfarError(
            f"{name} would learn {rows} vectors of {dim} dimensions, which no machine holds; give fewer "
            "classes=… or a smaller dim=…"
        )
    return start() if shard is None else shard.drawn(start)
