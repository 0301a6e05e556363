"""The two sides of a retrieval problem: labels, ids, cameras, sequences, checked and made into a protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.evaluate.protocol import (
    EqualKeys,
    GivenPairs,
    Pairing,
    RetrievalProtocol,
    SharedLabels,
    paired_codes,
)
from nearfar.missing import warn_of_missing

Array = Tensor | np.ndarray | Sequence[int]
Both = tuple[Array | None, Array | None]


@dataclass(frozen=True)
class Sides:
    """A protocol, the class of each query, and the gallery rows that stay (None: all)."""

    protocol: RetrievalProtocol
    classes: Int64[np.ndarray, " query"]
    kept: Int64[np.ndarray, " kept"] | None


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
        identity = _both("ids", ids, sizes, alone)
    if label is None and relevant is None:
        raise NearfarError(
            "retrieval needs to know what is relevant; give labels, or relevant=[queries, gallery]."
        )
    if camera is not None and (label is None or label[1] is None or label[0].ndim > 1):
        raise NearfarError("the camera protocol needs one integer label for each query and gallery image.")

    if label is not None and camera is None and relevant is None:
        warn_of_missing(label[0], "are relevant to each other", "evaluate.retrieval", stacklevel=4)
    whole_rows = junk is not None and np.ndim(junk) == 1
    kept = _kept(
        n_gallery,
        label[1] == -1 if camera is not None and label is not None else None,
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
        label[0] if label is not None and label[0].ndim == 1 else np.arange(n_queries),
        kept,
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


def as_integers(values: Array, name: str, rows: int, *, multi: bool = False) -> np.ndarray:
    """Return one integer (or, with ``multi``, one multi-hot row) for each row; int64, never by way of floats.

    Raises:
        NearfarError: if the values are not integers, or there is not one for each row.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim == 0 or len(array) != rows:
        raise NearfarError(
            f"{name} has {array.size} rows but there are {rows} images; give one for each image."
        )
    if array.ndim == 2 and multi and array.shape[1] == 1:
        raise NearfarError(
            f"{name} has shape {list(array.shape)}, and one tag tells no two kinds apart; give one integer "
            f"for each image, {name}.flatten(), or two tags or more."
        )
    if array.ndim == 2 and multi:
        if array.dtype.kind not in "biu" or array.min() < 0 or array.max() > 1:
            raise NearfarError(
                f"{name} is a matrix [n, classes] and must be multi-hot: only 0 and 1 (or bool)."
            )
        return array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise NearfarError(
            f"{name} must be one integer for each image; got shape {array.shape} and dtype {array.dtype}."
        )
    return array.astype(np.int64)


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
        raise NearfarError("every gallery image is junk; nothing is left to rank.")
    return np.flatnonzero(~dropped) if dropped.any() else None


def _left(n_gallery: int, kept: Int64[np.ndarray, " kept"] | None) -> int:
    return n_gallery if kept is None else len(kept)
