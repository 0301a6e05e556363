"""What a caller hands over, checked at the door: one sentence for what does not fit."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.similarity.labels import Kinship, Listed, Relevance, SameClass, SharedTag
from nearfar.similarity.relation import Relation
from nearfar.similarity.stable import read

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
Labels = Int[Tensor, " n"] | Int[Tensor, "n tag"] | Relevance


def check_embeddings(x: Any, name: str) -> int:
    """Refuse anything but floating-point [n, dim]; return n."""
    if not isinstance(x, Tensor):
        raise NearfarError(f"{name} must be a torch tensor; got {type(x).__name__}.")
    if x.ndim != 2 or not x.is_floating_point():
        raise NearfarError(f"{name} must be floating point of shape [n, dim]; got {shown(x)}.")
    if x.layout != torch.strided or x.dtype not in FLOATS:
        raise NearfarError(
            f"{name} must be dense, of float16, bfloat16, float32 or float64; got {shown(x)}, {x.layout}."
        )
    return len(x)


def check_same_dim(x: Tensor, y: Tensor) -> None:
    """Refuse candidates of another dimension than the embeddings."""
    if x.shape[1] != y.shape[1]:
        raise NearfarError(
            f"embeddings have {x.shape[1]} dimensions but candidates have {y.shape[1]}; compare what one "
            "model made."
        )


def check_device(given: Any, name: str, device: torch.device) -> None:
    """Refuse what lies on another device than the embeddings."""
    if isinstance(given, Tensor) and given.device != device:
        raise NearfarError(
            f"{name} is on {given.device} but embeddings are on {device}; move it there, with "
            f"{name}.to({str(device)!r})."
        )


def check_labels(labels: Any, count: int, name: str, items: str) -> None:
    """Refuse anything but ``count`` whole numbers [n] or tags [n, tag]; values are looked at elsewhere."""
    if not isinstance(labels, Tensor):
        raise NearfarError(f"{name} must be a torch tensor; got {type(labels).__name__}.")
    if labels.ndim == 2:
        if labels.shape[1] == 1:
            raise NearfarError(
                f"{name} has shape {list(labels.shape)}, and one tag tells no two kinds apart; give classes "
                f"[n], as {name}.flatten(), or two tags or more."
            )
        if labels.is_complex():
            raise NearfarError(f"{name} of shape [n, tag] must hold only 0 and 1; got {shown(labels)}.")
    else:
        check_whole_numbers(labels, len(labels) if labels.ndim else 0, name)
    if len(labels) != count:
        raise NearfarError(
            f"{name} has {len(labels)} rows but {items} has {count}; "
            f"give one label for each {items.removesuffix('s')}."
        )


def relate(
    n: int,
    labels: Labels,
    m: int | None = None,
    candidate_labels: Tensor | None = None,
    *,
    own: Tensor | None = None,
    ids: Tensor | None = None,
    candidate_ids: Tensor | None = None,
) -> Relation:
    """Say what each of n anchors is to each of m candidates, or to each other for ``m=None``.

    Raises:
        NearfarError: if labels, ids or own columns do not fit.
    """
    if m is None:
        check_ids(ids, n, ids, n)
        kin = kinship(labels, n)
        return Relation(kin, None, ids, ids, symmetric=True)
    check_own(own, n, m)
    check_ids(ids, n, candidate_ids, m)
    return Relation(kinship(labels, n, candidate_labels, m), own, ids, candidate_ids)


def kinship(
    labels: Any, count: int, candidate_labels: Any = None, candidate_count: int | None = None
) -> Kinship:
    """Read labels of any kind: classes [n], tags [n, tag] or ``Relevance``, of one set or of two.

    Args:
        labels: of the ``count`` anchors.
        candidate_labels: of the candidates.
        candidate_count: how many candidates; None for a batch against itself.

    Raises:
        NearfarError: if the labels do not fit the embeddings or each other.
    """
    if isinstance(labels, Relevance):
        if candidate_labels is not None:
            raise NearfarError("Relevance lists the positives already; leave candidate_labels out with it.")
        within = candidate_count is None
        return _listed(labels, count, count if candidate_count is None else candidate_count, within)
    own = _checked(labels, count, "labels", "embeddings")
    if candidate_labels is None and candidate_count is None:
        other = own
    else:
        other = _checked(candidate_labels, candidate_count or 0, "candidate_labels", "candidates")
    if own.ndim != other.ndim or own.shape[1:] != other.shape[1:]:
        raise NearfarError(
            f"labels has shape {list(own.shape)} but candidate_labels has {list(other.shape)}; "
            "both need classes [n], or both the same tags [n, tag]."
        )
    return SameClass(own, other) if own.ndim == 1 else SharedTag(own, other)


def _checked(labels: Any, count: int, name: str, items: str) -> Tensor:
    """Return classes as int64 [n], or tags as bool [n, tag]."""
    check_labels(labels, count, name, items)
    if labels.ndim == 1:
        return labels.long().contiguous()
    if not read(((labels == 0) | (labels == 1)).all()):
        raise NearfarError(f"{name} of shape [n, tag] must hold only 0 and 1; got {shown(labels)}.")
    return labels.bool().contiguous()


def _listed(relevance: Relevance, count: int, candidate_count: int, both_ways: bool) -> Listed:
    pairs = relevance.pairs
    if not isinstance(pairs, Tensor) or pairs.ndim != 2 or pairs.shape[1] != 2 or not _whole(pairs):
        got = shown(pairs) if isinstance(pairs, Tensor) else type(pairs).__name__
        raise NearfarError(f"Relevance takes whole numbers of shape [k, 2], (anchor, candidate); got {got}.")
    limits = pairs.new_tensor([count, candidate_count])
    outside = ((pairs < 0) | (pairs >= limits)).any(1)
    if read(outside.any()):
        raise NearfarError(
            f"Relevance names the pair {tuple(pairs[outside][0].tolist())}, but there are {count} anchors "
            f"and {candidate_count} candidates, counted from 0."
        )
    return Listed.of(torch.cat([pairs, pairs.flip(1)]) if both_ways else pairs, count, candidate_count)


def check_whole_numbers(values: Any, count: int, name: str) -> None:
    """Refuse anything but ``count`` whole numbers."""
    if not isinstance(values, Tensor):
        raise NearfarError(f"{name} must be a torch tensor; got {type(values).__name__}.")
    if values.ndim != 1 or not _whole(values):
        raise NearfarError(f"{name} must be whole numbers of shape [n]; got {shown(values)}.")
    if len(values) != count:
        raise NearfarError(f"{name} has {len(values)} rows but there are {count}; give one for each.")


def _whole(values: Tensor) -> bool:
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)


def check_ids(ids: Any, count: int, candidate_ids: Any, candidate_count: int) -> None:
    """Refuse ids on one side only, since they would exclude nothing, and ids of the wrong length."""
    if (ids is None) != (candidate_ids is None):
        missing = "candidate_ids" if candidate_ids is None else "ids"
        raise NearfarError(f"ids and candidate_ids go together; {missing} is missing.")
    if ids is not None:
        check_whole_numbers(ids, count, "ids")
        check_whole_numbers(candidate_ids, candidate_count, "candidate_ids")


def check_own(own: Any, count: int, candidate_count: int) -> None:
    """Refuse own columns that are not rows of the candidates (-1 is none)."""
    if own is None:
        return
    check_whole_numbers(own, count, "own")
    if len(own):
        least, most = (int(read(end)) for end in own.aminmax())
        if least < -1 or most >= candidate_count:
            raise NearfarError(
                f"own must be rows of the {candidate_count} candidates, or -1 for none; got {least} to "
                f"{most}."
            )


def shown(x: Tensor) -> str:
    """Return the shape and type of a tensor in words."""
    return f"{list(x.shape)} of {x.dtype}"
