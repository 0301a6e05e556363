"""Offline mining: what a network finds hard in a set that it has embedded."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.evaluate import neighbours
from nearfar.evaluate.settings import as_whole
from nearfar.inputs import check_embeddings, check_whole_numbers
from nearfar.mining.hard import farthest_positive, nearest_positive
from nearfar.mining.rounding import slack
from nearfar.offline.guard import Suspects, suspects, threshold_of
from nearfar.offline.rows import checked
from nearfar.offline.triplets import Triplets, blocks, check_margin, kinds_of
from nearfar.pairs import Pairs
from nearfar.similarity import ArgMax, Max, Measure


@dataclass(frozen=True, eq=False)
class Found:
    """One other row for each row, and its similarity; -1 and NaN where there is none."""

    row: Int64[np.ndarray, " n"]
    similarity: Float32[np.ndarray, " n"]

    def __repr__(self) -> str:
        return f"Found({np.count_nonzero(self.there)} of {len(self.row)} rows)"

    @property
    def there(self) -> np.ndarray:
        """Which rows have one."""
        return self.row >= 0


@dataclass(frozen=True)
class Confusion:
    """Two classes whose rows have their hard negatives in each other.

    Attributes:
        labels: of the two classes.
        count: rows of either whose hard negative is of the other.
        of: rows of both that have a positive.
        rows: the two nearest rows of these.
        similarity: of the two rows.
    """

    labels: tuple[int, int]
    count: int
    of: int
    rows: tuple[int, int]
    similarity: float


@dataclass(frozen=True, eq=False)
class Mined:
    """What ``mine`` found; rows are rows of the embeddings, ``ids`` say which images these were.

    Attributes:
        ids: image of each row.
        labels: class of each row.
        triplets: how many there are of each kind.
        kinds: the same for each row as anchor: easy, semi-hard, hard.
        nearest_positive: the most similar row of the same class.
        farthest_positive: the least similar row of the same class: the hard positive.
        negatives: the nearest rows of other classes, nearest first, -1 for none.
        negative_similarity: of each of these.
        hard: the nearest negative, where it is as near as the farthest positive or nearer.
        semi_hard: the nearest negative that is farther than the farthest positive, by the margin at most.
        suspects: pairs of different classes that are too near to be believed, among ``negatives``. None is
            in ``hard`` or ``semi_hard``, however many there are.
        margin: that triplets are classified with.
    """

    ids: Int64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    triplets: Triplets
    kinds: Int64[np.ndarray, "n 3"]
    nearest_positive: Found
    farthest_positive: Found
    negatives: Int64[np.ndarray, "n near"]
    negative_similarity: Float32[np.ndarray, "n near"]
    hard: Found
    semi_hard: Found
    suspects: Suspects
    margin: float

    def __repr__(self) -> str:
        return (
            f"Mined({len(self.labels)} rows of {len(np.unique(self.labels))} classes, {self.triplets}, "
            f"hard={self.hard}, semi_hard={self.semi_hard}, suspects={self.suspects}, margin={self.margin})"
        )

    def confusions(self) -> list[Confusion]:
        """List the pairs of classes by how many hard negatives they have in each other, most first."""
        rows = np.flatnonzero(self.hard.there)
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row in rows.tolist():
            one, other = sorted((int(self.labels[row]), int(self.labels[self.hard.row[row]])))
            groups[one, other].append(row)
        able = self.labels[self.nearest_positive.there]
        size = dict(zip(*(part.tolist() for part in np.unique(able, return_counts=True)), strict=True))
        found = []
        for labels, members in groups.items():
            nearest = max(members, key=lambda row: float(self.hard.similarity[row]))
            pair = (nearest, int(self.hard.row[nearest]))
            of = size.get(labels[0], 0) + size.get(labels[1], 0)
            found.append(Confusion(labels, len(members), of, pair, float(self.hard.similarity[nearest])))
        return sorted(found, key=lambda each: (-each.count, -each.similarity))


def mine(
    embeddings: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    *,
    ids: Int[Tensor, " n"] | None = None,
    margin: float = 0.2,
    near: int = 10,
    guard: float = 0.95,
    similarity: Measure = "cosine",
    backend: str = "auto",
    unlabelled: int | None = None,
) -> Mined:
    """Classify all triplets of a set, find each row's hard and semi-hard negative, and suspect labels.

    All of it is exact: neighbours, counts and negatives are those of the whole set, by streaming.

    Args:
        embeddings: of some or all training images, made with the newest weights.
        labels: class of each row.
        ids: which image each row is; its number unless given.
        margin: m of the classification; see ``Triplets``.
        near: how many of the nearest negatives of each row to list (>= 1); suspects are listed among these.
        guard: a negative nearer than this share of all pairs of one class is suspect, and is passed over for
            the next; 1 suspects only what is nearer than every pair of one class.
        similarity: "cosine", "dot", "euclidean" or "squared_euclidean".
        backend: that does the arithmetic.
        unlabelled: rows with this label are left out; what is found counts the rows that stay, and ``ids``
            says which they were.

    Raises:
        NearfarError: if shapes, types or settings do not fit, or a value is NaN or infinite.
    """
    check_settings(margin, guard)
    listed = as_whole(near)
    if listed is None or not 1 <= listed <= 2**16:
        raise NearfarError(
            f"near is how many of the nearest negatives to list, 1 to {2**16}; got {repr(near)[:40]}."
        )
    if ids is not None:
        check_whole_numbers(ids, check_embeddings(embeddings, "embeddings"), "ids")
    embeddings, labels, kept = checked(embeddings, labels, similarity, unlabelled)
    if len(torch.unique(labels)) < 2:
        raise NearfarError("there is one class to mine, or none; negatives need two or more.")
    names = labels.cpu().numpy()
    near_ones = neighbours(
        embeddings, embeddings, listed, ids=names, gallery_ids=names, similarity=similarity
    )
    positives = [
        pairs.positives.similarity.cpu().numpy() for pairs in blocks(embeddings, labels, similarity, backend)
    ]
    threshold = threshold_of(np.concatenate(positives), guard)
    parts = [_mine(pairs, margin, threshold) for pairs in blocks(embeddings, labels, similarity, backend)]
    all_kinds, *found = zip(*parts, strict=True)
    kinds = np.concatenate(all_kinds)
    nearest, farthest, hard, semi_hard = (_joined(each) for each in found)
    return Mined(
        ids=kept.numpy() if ids is None else ids.cpu().numpy().astype(np.int64)[kept.numpy()],
        labels=names,
        triplets=Triplets(*kinds.sum(axis=0).tolist()),
        kinds=kinds,
        nearest_positive=nearest,
        farthest_positive=farthest,
        negatives=near_ones.ids,
        negative_similarity=near_ones.similarity,
        hard=hard,
        semi_hard=semi_hard,
        suspects=suspects(near_ones.ids, near_ones.similarity, threshold),
        margin=margin,
    )


def check_settings(margin: float, guard: float) -> None:
    """Refuse what ``mine`` cannot mine with, before anything is embedded.

    Raises:
        NearfarError: if ``margin`` is not positive, or ``guard`` is no share.
    """
    check_margin(margin)
    if not 0 < guard <= 1:
        raise NearfarError(f"guard is a share of the positive pairs, above 0 and at most 1; got {guard}.")


def _mine(
    pairs: Pairs, margin: float, threshold: float
) -> tuple[Int64[np.ndarray, "anchor kind"], Found, Found, Found, Found]:
    """Count an anchor's triplets and find its nearest and farthest positive, hard and semi-hard negative."""
    rounding = slack(pairs)
    least = pairs.per_anchor(pairs.positives.similarity, "min").detach()
    # Hard is what is at least as near as the farthest positive; semi-hard goes on from there by the margin.
    equal, believed = least - rounding, threshold - rounding
    farther = torch.minimum(equal.nextafter(torch.full_like(equal, torch.inf)), believed)
    value, row, next_value, next_row = pairs.stream(
        Max(below=believed), ArgMax(below=believed), Max(below=farther), ArgMax(below=farther)
    )
    alone = least == torch.inf
    return (
        kinds_of(pairs, margin),
        _positive(pairs, nearest_positive(pairs)),
        _positive(pairs, farthest_positive(pairs)),
        _found(row.masked_fill(alone | (value <= equal), -1), value),
        _found(next_row.masked_fill(alone | (next_value <= equal - margin), -1), next_value),
    )


def _joined(found: Sequence[Found]) -> Found:
    row, similarity = ([getattr(each, name) for each in found] for name in ("row", "similarity"))
    return Found(np.concatenate(row), np.concatenate(similarity))


def _positive(pairs: Pairs, keep: Bool[Tensor, " positive"]) -> Found:
    """Return the one positive of each anchor that is kept."""
    kept = pairs.positives.where(keep)
    row = torch.full((len(pairs),), -1, device=kept.anchor.device).scatter(0, kept.anchor, kept.candidate)
    value = kept.similarity.new_zeros(len(pairs)).scatter(0, kept.anchor, kept.similarity)
    return _found(row, value)


def _found(row: Int[Tensor, " anchor"], value: Float[Tensor, " anchor"]) -> Found:
    return Found(row.cpu().numpy(), value.masked_fill(row < 0, torch.nan).float().cpu().numpy())
