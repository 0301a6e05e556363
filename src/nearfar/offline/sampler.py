"""Batches around the hard or semi-hard negatives that offline mining found."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64

from nearfar.data.samplers import BatchSampler, LiveSampler, register_sampler
from nearfar.errors import DataError
from nearfar.offline.mined import Mined

Around = Literal["hard", "semi_hard"]


class OfflineSampler(LiveSampler):
    """P x K batches around mined triplets: anchor, farthest positive and negative lie in one batch.

    A part of the classes of a batch come in this way, by anchors in random order: the class of the anchor and
    that of its negative. The other classes are drawn evenly, so that those without hard negatives are not
    forgotten. Each class is filled up to K images with random ones of its own. Two images that were found
    suspect, nearly the same under two labels, never meet in a batch, so no loss pushes them apart; the only
    exception is a class that has no other image left when no other class is left either.

    Before the first ``refresh`` all classes are drawn evenly.

    Args:
        labels: class of each image.
        classes_per_batch: P.
        images_per_class: K.
        seed: of the draw.
        around: which negatives: "semi_hard" ones, or "hard" ones, which can make a young network collapse.
        share: part of the classes of a batch that are mined.

    Raises:
        DataError: if a setting does not fit.
    """

    name = "offline"

    def __init__(
        self,
        labels: Int64[Any, " image"] | Sequence[int],
        classes_per_batch: int,
        images_per_class: int,
        *,
        seed: int = 0,
        around: Around = "semi_hard",
        share: float = 0.5,
    ) -> None:
        super().__init__(labels, classes_per_batch, images_per_class, seed=seed)
        if not 0 < share <= 1:
            raise DataError(f"share is a part of the classes of a batch, above 0 and at most 1; got {share}.")
        if around not in ("hard", "semi_hard"):
            raise DataError(f"a batch is drawn around 'hard' or 'semi_hard' negatives; got {around!r}.")
        self.around, self.share = around, share
        self._know(np.empty((0, 3), np.int64), np.empty((0, 2), np.int64))

    def settings(self) -> dict[str, Any]:
        """Return what a batch depends on, besides its place and what was mined."""
        return super().settings() | {"around": self.around, "share": self.share}

    def refresh(self, mined: Mined) -> None:
        """Draw from now on around what was mined; its ids are images of this set.

        Raises:
            DataError: if an id is no image of this set, or has another label here.
        """
        ids = mined.ids
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self.labels):
            raise DataError(
                f"the mined ids run from {ids.min()} to {ids.max()} but the sampler has {len(self.labels)} "
                "images; give mine the ids of the sampler's images."
            )
        if (self.labels[ids] != mined.labels).any():
            raise DataError("mined images have other labels than the sampler's; mine the set it draws from.")
        found = mined.hard if self.around == "hard" else mined.semi_hard
        rows = np.flatnonzero(found.there)
        triplets = np.stack([rows, mined.farthest_positive.row[rows], found.row[rows]], axis=1)
        self._know(ids[triplets], ids[mined.suspects.pairs])

    def draw(self, random: np.random.Generator) -> Int64[np.ndarray, " row"]:
        """Draw one batch; the rows of a class lie together."""
        batch = Batch(self.images_per_class, self.blocked)
        mined = max(2, round(self.share * self.classes_per_batch))
        for triplet in self.triplets[random.permutation(len(self.triplets))[: 8 * mined]]:
            if len(batch.rows) == mined:
                break
            classes = self.members.label[triplet]
            if len({*batch.rows, *classes.tolist()}) <= mined:
                for c, row in zip(classes.tolist(), triplet.tolist(), strict=True):
                    batch.add(c, row)
        rest = [c for c in random.permutation(len(self.members)).tolist() if c not in batch.rows]
        for c in [*batch.rows, *rest]:
            if c in batch.rows or len(batch.rows) < self.classes_per_batch:
                batch.fill(c, random.permutation(self.members.images[c]).tolist())
        for c in rest:
            if len(batch.rows) < self.classes_per_batch and c not in batch.rows:
                batch.force(c, random.permutation(self.members.images[c]).tolist())
        return np.concatenate([np.array(rows) for rows in batch.rows.values()])

    def learn(self, label: Int64[np.ndarray, " n"], embeddings: Float32[np.ndarray, "n dim"]) -> None:
        """Learn nothing from a step: what counts is ``refresh``."""

    def learned(self) -> dict[str, Any]:
        """Return the mined triplets and the suspect pairs, as images."""
        return {"triplets": torch.from_numpy(self.triplets), "suspects": torch.from_numpy(self.suspects)}

    def relearn(self, state: Mapping[str, Any]) -> None:
        """Take what ``learned`` returned."""
        self._know(state["triplets"].numpy(), state["suspects"].numpy())

    def _know(self, triplets: Int64[np.ndarray, "found 3"], suspects: Int64[np.ndarray, "pair 2"]) -> None:
        self.triplets, self.suspects = triplets, suspects
        self.blocked: dict[int, set[int]] = defaultdict(set)
        for one, other in suspects.tolist():
            self.blocked[one].add(other)
            self.blocked[other].add(one)


class Batch:
    """A batch in the making: rows by class, none of them blocked by another."""

    def __init__(self, size: int, blocked: Mapping[int, set[int]]) -> None:
        self.size, self.blocked = size, blocked
        self.rows: dict[int, list[int]] = {}
        self.taken: set[int] = set()

    def add(self, c: int, row: int) -> None:
        """Add one row of class ``c`` if it is not there yet, has room and is not blocked."""
        rows = self.rows.get(c, [])
        if row in self.taken or len(rows) == self.size or self.blocked.get(row, set()) & self.taken:
            return
        self.rows.setdefault(c, []).append(row)
        self.taken.add(row)

    def fill(self, c: int, images: list[int]) -> None:
        """Fill class ``c`` up with its images, again if they are few; none if all are blocked."""
        for row in images:
            if len(self.rows.get(c, [])) == self.size:
                break
            self.add(c, row)
        if c in self.rows:
            rows = self.rows[c]
            self.rows[c] = [rows[place % len(rows)] for place in range(self.size)]

    def force(self, c: int, images: list[int]) -> None:
        """Fill class ``c`` although its images are blocked."""
        self.rows[c] = [images[place % len(images)] for place in range(self.size)]


@register_sampler
def offline(
    labels: Sequence[int] | np.ndarray,
    classes_per_batch: int,
    images_per_class: int,
    seed: int = 0,
    *,
    around: Around = "semi_hard",
    share: float = 0.5,
) -> BatchSampler:
    """Batches around the hard or semi-hard negatives of all training images, mined every so many steps.

    ``sampler.refresh(nearfar.offline.mine(embeddings, labels))`` tells it what was found; see
    ``OfflineSampler`` for the rule.

    Args:
        around: which negatives: "semi_hard" ones, or "hard" ones, which can make a young network collapse.
        share: part of the classes of a batch that are mined; the others are drawn evenly.

    Reference:
        Schroff et al., CVPR 2015 (triplets generated offline). https://arxiv.org/abs/1503.03832
    """
    return OfflineSampler(labels, classes_per_batch, images_per_class, seed=seed, around=around, share=share)
