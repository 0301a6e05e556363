"""What a call of a loss must not be: one sentence for each."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from nearfar.criterion.batch import Batch
from nearfar.criterion.weights import check_weights, refuse_weights
from nearfar.errors import NearfarError
from nearfar.inputs import (
    check_device,
    check_embeddings,
    check_same_dim,
    check_whole_numbers,
    relate,
)
from nearfar.inputs import (
    check_labels as check_shape_of_labels,
)
from nearfar.losses.parts.registry import LossEntry
from nearfar.losses.parts.terms import Reduction
from nearfar.similarity import Relevance


def check_call(name: str, entry: LossEntry, batch: Batch) -> None:
    """Refuse arguments that do not go together, or not with this loss.

    Raises:
        NearfarError: if there are any.
    """
    candidates = batch.candidates
    if (candidates is None) != (batch.candidate_labels is None) and not isinstance(batch.labels, Relevance):
        raise NearfarError("candidates and candidate_labels go together; give both or neither.")
    if entry.proxies is not None and candidates is not None:
        raise NearfarError(f"{name} compares with its own proxies; call it without candidates.")
    if entry.needs == "nothing" and candidates is not None:
        raise NearfarError(f"{name} looks at the embeddings alone; call it without candidates.")
    if candidates is None and batch.candidate_ids is not None:
        raise NearfarError("candidate_ids needs candidates; within a batch, ids is enough.")
    n = check_embeddings(batch.embeddings, "embeddings")
    _check_devices(batch)
    if candidates is not None:
        check_embeddings(candidates, "candidates")
        check_same_dim(batch.embeddings, candidates)
    if isinstance(batch.labels, Tensor) or (
        entry.needs != "nothing" and not isinstance(batch.labels, Relevance)
    ):
        check_shape_of_labels(batch.labels, n, "labels", "embeddings")
    if entry.proxies is not None and batch.ids is not None:
        check_whole_numbers(batch.ids, n, "ids")
    check_weights(batch.weights, n)
    if entry.proxies is not None and entry.proxies.over == "class":
        refuse_weights(name, batch.weights)


def check_place(weights: Iterable[Tensor], settings: Mapping[str, Any], device: torch.device) -> None:
    """Refuse a loss that holds tensors elsewhere than the embeddings are.

    Raises:
        NearfarError: if it does.
    """
    for weight in weights:
        check_device(weight, "loss", device)
    for name, setting in settings.items():
        check_device(setting, name, device)


def _check_devices(batch: Batch) -> None:
    device = batch.embeddings.device
    for name in ("labels", "candidates", "candidate_labels", "weights", "ids", "candidate_ids"):
        given = getattr(batch, name)
        check_device(given.pairs if isinstance(given, Relevance) else given, name, device)


def check_labels(batch: Batch) -> None:
    """Refuse labels and ids that do not fit the vectors.

    Raises:
        NearfarError: if they do not.
    """
    m = None if batch.candidates is None else len(batch.candidates)
    relate(
        len(batch.embeddings),
        batch.labels,
        m,
        batch.candidate_labels,
        ids=batch.ids,
        candidate_ids=batch.candidate_ids,
    )


def refuse_slopes(batch: Batch, settings: Mapping[str, Any], reduction: Reduction, learning: bool) -> None:
    """Refuse gradients that ranks cannot share.

    Raises:
        NearfarError: if the gradient goes through what only the caller has, or is of something else.
    """
    if learning and reduction == "none":
        raise NearfarError(
            "reduction='none' leaves the averaging to the caller, and other ranks would not hear of it; "
            "choose another reduction, or create the loss with across_ranks=False."
        )
    others = {"weights": batch.weights, **settings}
    wrong = [name for name, x in others.items() if isinstance(x, Tensor) and x.requires_grad]
    if wrong:
        raise NearfarError(
            f"{wrong[0]} wants a gradient, which is not computed across ranks; detach it, or create the loss "
            "with across_ranks=False."
        )


def no_memory(name: str, entry: LossEntry) -> str | None:
    """Return why a memory can add nothing to a loss, if so."""
    if entry.proxies is not None:
        return f"{name} compares with its own proxies, not with embeddings; call it without memory."
    if entry.needs == "nothing":
        return f"{name} looks at the embeddings alone; call it without memory."
    return None
