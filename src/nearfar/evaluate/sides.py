"""The two sides of a retrieval problem: labels, ids, cameras, sequences, checked and made into a protocol."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.evaluate.labels import Array, as_integers, as_label, warn_of_repeated
from nearfar.evaluate.protocol import (
    EqualKeys,
    GivenPairs,
    Pairing,
    RetrievalProtocol,
    SharedLabels,
    paired_codes,
)
from nearfar.missing import warn_of_missing

Both = tuple[Array | None, Array | None]


@dataclass(frozen=True)
class Sides:
    """A protocol, the class of each query, which queries count, and gallery rows that stay (None: all)."""

    protocol: RetrievalProtocol
    classes: Int64[np.ndarray, " query"]
    asked: Bool[np.ndarray, " query"]
    kept: Int64[np.ndarray, " kept"] | None
    unlabelled: int | None


def build_sides(
    n_queries: int,
    n_gallery: int,
    *,
    alone: bool,
    labels: Both = (None, None),
    ids: Both = (None, None),
    cameras: Both = (None, None),
    sequences: Both = (None, None),
    relevant: Any = None,
    junk: Any = None,
    unlabelled: int | None = None,
) -> Sides:
    """Check what the caller gave for the two sides and make a protocol of it.

    Args:
        n_queries: number of queries.
        n_gallery: number of gallery images.
        alone: the gallery is the set of queries itself.
        labels: of queries and gallery; the rest too.
        ids: image identities.
        cameras: cameras.
        sequences: sequences.
        relevant: explicit relevance, as in ``nearfar.evaluate.retrieval``.
        junk: explicit exclusions.
        unlabelled: the label of images that are left out.

    Returns:
        The protocol over the gallery rows that stay.
    """
    sizes = (n_queries, n_gallery)
    label = _both("labels", labels, sizes, alone, multi=True, one_sided=relevant is not None)
    camera = _both("cameras", cameras, sizes, alone)
    sequence = _both("sequences", sequences, sizes, alone)
    if alone and ids[0] is None:
        own = np.arange(n_queries)
        identity = (own, own)
    else:
        identity = _identity(ids, sizes, alone)
    _check_there_is_enough(label, camera, relevant)
    classes = label[0] if label is not None and label[0].ndim == 1 else None
    if unlabelled is not None:
        unlabelled = as_label(unlabelled)
    elif classes is not None and camera is None and relevant is None:
        warn_of_missing(classes, "are taken as one class", "the evaluation", stacklevel=4)
    asked = _asked(n_queries, None if relevant is not None else classes, unlabelled)

    whole_rows = junk is not None and np.ndim(junk) == 1
    kept = _kept(
        n_gallery,
        label[1] == -1 if camera is not None and label is not None else None,
        label[1] == unlabelled if unlabelled is not None and label is not None else None,
        _mask(junk, n_gallery) if whole_rows else None,
    )

    def cut(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return pair if kept is None else (pair[0], pair[1][kept])

    excluded: list[Pairing] = []
    if identity is not None:
        excluded.append(EqualKeys(*cut(identity)))
    if sequence is not None:
        excluded.append(EqualKeys(*cut(sequence)))
    if camera is not None and label is not None:
        own_label, other_label = cut(label)
        own_camera, other_camera = cut(camera)
        excluded.append(paired_codes(own_label, own_camera, other_label, other_camera))
    if junk is not None and not whole_rows:
        excluded.append(GivenPairs(junk, sizes, "junk", kept))
    found: Pairing
    if relevant is not None:
        found = GivenPairs(relevant, sizes, "relevant", kept)
    elif label is not None and label[0].ndim == 2:
        found = SharedLabels(*cut(label))
    else:
        assert label is not None
        found = EqualKeys(*cut(label))
    return Sides(
        RetrievalProtocol(n_queries, _left(n_gallery, kept), found, excluded),
        np.arange(n_queries) if classes is None else classes,
        asked,
        kept,
        unlabelled,
    )


def build_exclusions(
    n_queries: int, n_gallery: int, *, alone: bool, ids: Both, excluded: Any
) -> RetrievalProtocol:
    """A protocol of exclusions only: equal ids (a set against itself: the own row), and pairs given."""
    sizes = (n_queries, n_gallery)
    own = np.arange(n_queries)
    identity = (own, own) if alone and ids[0] is None else _both("ids", ids, sizes, alone)
    pairs: list[Pairing] = [] if identity is None else [EqualKeys(*identity)]
    if excluded is not None:
        pairs.append(GivenPairs(excluded, sizes, "excluded", None))
    nothing = EqualKeys(np.zeros(n_queries, np.int64), np.ones(n_gallery, np.int64))
    return RetrievalProtocol(n_queries, n_gallery, nothing, pairs)


def _check_there_is_enough(
    label: tuple[np.ndarray, Any] | None, camera: tuple[np.ndarray, Any] | None, relevant: Any
) -> None:
    if label is None and relevant is None:
        raise NearfarError(
            "retrieval needs to know what is relevant; give labels, or relevant=[queries, gallery]."
        )
    if camera is not None and (label is None or label[1] is None or label[0].ndim > 1):
        raise NearfarError("the camera protocol needs one integer label for each query and gallery image.")


def _identity(ids: Both, sizes: tuple[int, int], alone: bool) -> tuple[np.ndarray, Any] | None:
    identity = _both("ids", ids, sizes, alone)
    if identity is not None:
        warn_of_repeated(identity[0], "ids", "count twice as queries")
        if not alone:
            warn_of_repeated(identity[1], "gallery_ids", "can be found twice")
    return identity


def _asked(
    n_queries: int, classes: Int64[np.ndarray, " query"] | None, unlabelled: int | None
) -> Bool[np.ndarray, " query"]:
    """The queries that have a label."""
    if unlabelled is None:
        return np.ones(n_queries, bool)
    if classes is None:
        raise NearfarError(
            "unlabelled is one of the integer labels that decide what is relevant; give labels [n] of "
            "integers and no relevant, or leave it out."
        )
    asked = classes != unlabelled
    if not asked.any():
        raise NearfarError(
            f"all {n_queries} queries have the label {unlabelled} of unlabelled images; nothing is left."
        )
    return asked


def _both(
    name: str,
    pair: Both,
    sizes: tuple[int, int],
    alone: bool,
    *,
    multi: bool = False,
    one_sided: bool = False,
) -> tuple[np.ndarray, Any] | None:
    own, other = pair
    if alone and other is not None:
        raise NearfarError(f"gallery_{name} is given but gallery is not; give both or neither.")
    if own is None and other is None:
        return None
    if own is None or (other is None and not alone and not one_sided):
        missing, given = (name, f"gallery_{name}") if own is None else (f"gallery_{name}", name)
        raise NearfarError(f"{given} is given but {missing} is not; give both.")
    first = as_integers(own, name, sizes[0], multi=multi)
    if alone:
        return first, first
    if other is None:
        return first, None
    second = as_integers(other, f"gallery_{name}", sizes[1], multi=multi)
    if first.ndim != second.ndim or first.shape[1:] != second.shape[1:]:
        raise NearfarError(
            f"{name} has shape {first.shape} and gallery_{name} has {second.shape}; "
            "give both in the same form."
        )
    return first, second


def _mask(junk: Any, n_gallery: int) -> np.ndarray:
    mask = junk.cpu().numpy() if isinstance(junk, Tensor) else np.asarray(junk)
    if mask.dtype != np.bool_ or mask.shape != (n_gallery,):
        raise NearfarError(
            f"junk has shape {mask.shape} and dtype {mask.dtype}; give bool values for the {n_gallery} "
            "gallery images, or a matrix [queries, gallery]."
        )
    return mask


def _kept(n_gallery: int, *junk: np.ndarray | None) -> Int64[np.ndarray, " kept"] | None:
    """Gallery rows that are not junk; None when all stay."""
    dropped = np.zeros(n_gallery, bool)
    for mask in junk:
        if mask is not None:
            dropped |= mask
    if dropped.all():
        raise NearfarError("every gallery image is junk or unlabelled; nothing is left to rank.")
    return np.flatnonzero(~dropped) if dropped.any() else None


def _left(n_gallery: int, kept: Int64[np.ndarray, " kept"] | None) -> int:
    return n_gallery if kept is None else len(kept)
