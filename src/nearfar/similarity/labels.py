"""Who is of a kind with whom: by class, by shared tags, or by a list of pairs."""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nearfar.once import once
from nearfar.similarity.stable import places_in, read, repeated

MANY = 8
"""Candidates for each anchor from which only those of the anchors' classes are put in order."""

PairList = tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]


@dataclass(eq=False)
class Relevance:
    """Positives given one by one, for data without classes: pass it where labels are asked for.

    Attributes:
        pairs: rows [k, 2], (anchor, candidate). Within one batch a pair counts in both directions; every
            comparison that is not listed is a negative.
    """

    pairs: Int[Tensor, "k 2"]


class Kinship(Protocol):
    """Which pairs are of one kind, before exclusions."""

    @property
    def size(self) -> int:
        """How many anchors there are."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the labels are."""
        ...

    def count(self) -> int:
        """How many pairs there are, without listing them."""
        ...

    def pairs(self) -> PairList:
        """List the pairs (anchor, candidate), ordered by anchor, then by candidate."""
        ...

    def mask(self, rows: Int[Tensor, " row"] | None = None) -> Bool[Tensor, "row candidate"]:
        """Say for each of the anchors in ``rows``, None for all, which candidates are of its kind."""
        ...

    def order(self) -> tuple[Int[Tensor, " anchor"], Int[Tensor, " candidate"]]:
        """Order anchors and candidates so that pairs lie close together."""
        ...

    def take(self, rows: Int[Tensor, " row"]) -> "Kinship":
        """Keep only some of the anchors."""
        ...

    def among(self, some: slice) -> "Kinship":
        """Keep only a run of the candidates."""
        ...


@dataclass(eq=False)
class SameClass:
    """Pairs of equal label."""

    anchors: Int[Tensor, " anchor"]
    candidates: Int[Tensor, " candidate"]

    @property
    def size(self) -> int:
        return len(self.anchors)

    @property
    def device(self) -> torch.device:
        return self.anchors.device

    def count(self) -> int:
        return int(read(self._range[1].sum()))

    @property
    def sizes(self) -> Int[Tensor, " anchor"]:
        """How many candidates each anchor's class has."""
        return self._range[1]

    def pairs(self) -> PairList:
        _, by_label = self._sorted
        first, count = self._range
        anchor = repeated(count)
        place = torch.arange(len(anchor), device=count.device) - (count.cumsum(0) - count)[anchor]
        return anchor, by_label[first[anchor] + place]

    def mask(self, rows: Tensor | None = None) -> Tensor:
        anchors = self.anchors if rows is None else self.anchors.index_select(0, rows)
        return anchors[:, None] == self.candidates[None, :]

    def order(self) -> tuple[Tensor, Tensor]:
        """Order class by class, in the order in which the candidates' classes first appear."""
        labels, by_label = self.candidates.sort(stable=True)
        begins = torch.ones_like(labels, dtype=torch.bool)
        begins[1:] = labels[1:] != labels[:-1]
        start, run = places_in(begins), begins.cumsum(0) - 1
        classes = labels[start]
        # The sort is stable: the first of a run is the first of its class.
        rank = torch.argsort(torch.argsort(by_label[start]))
        candidates = by_label[torch.argsort(rank[run], stable=True)]
        if self.anchors is self.candidates:
            return candidates, candidates
        place = torch.searchsorted(classes, self.anchors).clamp_max(max(0, len(classes) - 1))
        if not len(classes):
            return torch.argsort(self.anchors, stable=True), candidates
        known = classes[place] == self.anchors
        return torch.argsort(torch.where(known, rank[place], len(classes)), stable=True), candidates

    def take(self, rows: Tensor) -> "SameClass":
        return SameClass(self.anchors[rows], self.candidates)

    def among(self, some: slice) -> "SameClass":
        return SameClass(self.anchors, self.candidates[some])

    @once
    def _sorted(self) -> tuple[Tensor, Tensor]:
        """The candidates' labels in order, and which candidate each is of; at least the anchors' labels."""
        if len(self.candidates) < MANY * len(self.anchors):
            return self.candidates.sort(stable=True)
        some = _perhaps_among(self.candidates, self.anchors)
        labels, order = self.candidates[some].sort(stable=True)
        return labels, some[order]

    @once
    def _range(self) -> tuple[Tensor, Tensor]:
        """Where each anchor's class starts among the sorted candidates, and how many it has."""
        labels, _ = self._sorted
        first = torch.searchsorted(labels, self.anchors)
        return first, torch.searchsorted(labels, self.anchors, right=True) - first


@dataclass(eq=False)
class SharedTag:
    """Pairs that share a tag; labels are multi-hot rows."""

    anchors: Bool[Tensor, "anchor tag"]
    candidates: Bool[Tensor, "candidate tag"]

    @property
    def size(self) -> int:
        return len(self.anchors)

    @property
    def device(self) -> torch.device:
        return self.anchors.device

    def count(self) -> int:
        return sum(int(self.mask(rows).sum()) for rows in self._chunks())

    def pairs(self) -> PairList:
        found = []
        for rows in self._chunks():
            row, candidate = torch.nonzero(self.mask(rows), as_tuple=True)
            found.append(torch.stack([rows[row], candidate]))
        anchor, candidate = torch.cat(found, 1) if found else self.anchors.new_zeros((2, 0), dtype=torch.long)
        return anchor, candidate

    def mask(self, rows: Tensor | None = None) -> Tensor:
        anchors = self.anchors if rows is None else self.anchors.index_select(0, rows)
        return anchors.float() @ self.candidates.float().mT > 0.5

    def order(self) -> tuple[Tensor, Tensor]:
        """Order by the first tag; multi-hot rows have no order that keeps all pairs close."""
        return torch.argsort(_first_tag(self.anchors), stable=True), torch.argsort(
            _first_tag(self.candidates), stable=True
        )

    def take(self, rows: Tensor) -> "SharedTag":
        return SharedTag(self.anchors[rows], self.candidates)

    def among(self, some: slice) -> "SharedTag":
        return SharedTag(self.anchors, self.candidates[some])

    def _chunks(self) -> tuple[Tensor, ...]:
        size = max(1, 2**22 // max(1, len(self.candidates)))
        rows = torch.arange(len(self.anchors), device=self.anchors.device)
        return rows.split(size) if len(rows) else ()


@dataclass(eq=False)
class Listed:
    """Pairs from a list, without repeats, ordered by anchor."""

    anchor: Int[Tensor, " pair"]
    candidate: Int[Tensor, " pair"]
    anchors: int
    candidates: int

    @classmethod
    def of(cls, pairs: Int[Tensor, "k 2"], anchors: int, candidates: int) -> "Listed":
        """Sort a list of pairs and drop its repeats."""
        key = torch.unique(pairs[:, 0].long() * candidates + pairs[:, 1].long())
        return cls(key // max(1, candidates), key % max(1, candidates), anchors, candidates)

    @property
    def size(self) -> int:
        return self.anchors

    @property
    def device(self) -> torch.device:
        return self.anchor.device

    def count(self) -> int:
        return len(self.anchor)

    def pairs(self) -> PairList:
        return self.anchor, self.candidate

    def mask(self, rows: Tensor | None = None) -> Tensor:
        if rows is None:
            mask = torch.zeros(self.anchors, self.candidates, dtype=torch.bool, device=self.anchor.device)
            return mask.index_put_((self.anchor, self.candidate), mask.new_ones(()))
        place = self.anchor.new_full((self.anchors,), -1)
        place[rows] = torch.arange(len(rows), device=rows.device)
        mask = torch.zeros(len(rows), self.candidates, dtype=torch.bool, device=rows.device)
        there = place[self.anchor] >= 0
        mask[place[self.anchor[there]], self.candidate[there]] = True
        # A row asked for more than once was filled at its last place only.
        return mask[place[rows]]

    def order(self) -> tuple[Tensor, Tensor]:
        device = self.anchor.device
        return torch.arange(self.anchors, device=device), torch.arange(self.candidates, device=device)

    def take(self, rows: Tensor) -> "Listed":
        order = torch.argsort(rows, stable=True)
        near, pair = SameClass(rows[order], self.anchor).pairs()
        return Listed.of(torch.stack([order[near], self.candidate[pair]], 1), len(rows), self.candidates)

    def among(self, some: slice) -> "Listed":
        here = (self.candidate >= some.start) & (self.candidate < some.stop)
        return Listed(
            self.anchor[here], self.candidate[here] - some.start, self.anchors, some.stop - some.start
        )


def matches(a: Int[Tensor, " n"], b: Int[Tensor, " m"]) -> PairList:
    """List all (i, j) with a_i = b_j."""
    return SameClass(a, b).pairs()


def _perhaps_among(many: Int[Tensor, " m"], few: Int[Tensor, " n"]) -> Int[Tensor, " some"]:
    """Return where the values of ``many`` are among ``few``, and a few more places, without a search."""

    def place(values: Tensor) -> Tensor:
        return (values ^ (values >> 16)) & 0xFFFF

    seen = torch.zeros(2**16, dtype=torch.bool, device=few.device)
    seen[place(few)] = True
    return places_in(seen[place(many)])


def _first_tag(tags: Tensor) -> Tensor:
    if not tags.shape[1]:
        return torch.zeros(len(tags), dtype=torch.long, device=tags.device)
    return torch.where(tags.any(1), tags.int().argmax(1), tags.shape[1])
