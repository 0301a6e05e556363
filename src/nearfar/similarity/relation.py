"""Who is a positive, who is a negative and who is never compared."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nearfar.once import once
from nearfar.similarity.labels import Kinship, PairList, SameClass, matches
from nearfar.similarity.stable import at_once, places_in


@dataclass(eq=False)
class Relation:
    """What each comparison of an anchor with a candidate is.

    A pair is never compared when the candidate is the anchor itself or both carry the same id. Otherwise it
    is a positive when both are of one kind (``kinship``), and a negative when they are not.

    Attributes:
        kinship: who is of a kind with whom.
        own_columns: the candidate that IS the anchor, or -1; None when no anchor is among the candidates, or
            in a batch against itself.
        anchor_ids: id of each anchor, or None.
        candidate_ids: id of each candidate, or None.
        rows: what each anchor was called before ``take`` kept only some of them, or None.
        symmetric: a batch against itself: whatever holds for (i, j) holds for (j, i).
        hosted: whether it has been brought to the host.
    """

    kinship: Kinship
    own_columns: Int[Tensor, " anchor"] | None = None
    anchor_ids: Int[Tensor, " anchor"] | None = None
    candidate_ids: Int[Tensor, " candidate"] | None = None
    rows: Int[Tensor, " anchor"] | None = None
    symmetric: bool = False
    hosted: bool = False
    _left_out: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    @once
    def own(self) -> Int[Tensor, " anchor"] | None:
        """The candidate that IS the anchor, or -1; None when no anchor is among the candidates."""
        if self.own_columns is None and self.symmetric:
            return torch.arange(self.kinship.size, device=self.kinship.device)
        return self.own_columns

    @property
    def on_host(self) -> "Relation":
        """The same, by class, where the host can find out what lies where; a device is waited for, once."""
        kinship = self.kinship
        known = self.hosted or not isinstance(kinship, SameClass) or at_once(kinship.anchors)
        return self if known or torch.compiler.is_compiling() else self._hosted

    @once
    def _hosted(self) -> "Relation":
        kinship = self.kinship
        assert isinstance(kinship, SameClass)
        given = (kinship.anchors, kinship.candidates, self.own_columns, self.anchor_ids, self.candidate_ids)
        anchors, candidates, own, ids, candidate_ids = _brought(*given)
        assert anchors is not None
        assert candidates is not None
        return replace(
            self,
            kinship=SameClass(anchors, candidates),
            own_columns=own,
            anchor_ids=ids,
            candidate_ids=candidate_ids,
            hosted=True,
        )

    def positives(self) -> PairList:
        """List the positive pairs (anchor, candidate), ordered by anchor, then by candidate."""
        if self.on_host is not self:
            anchor, candidate = self.on_host.positives()
            return anchor.to(self.kinship.device), candidate.to(self.kinship.device)
        anchor, candidate = self.kinship.pairs()
        out = torch.zeros_like(anchor, dtype=torch.bool)
        if self.own is not None:
            out |= self.own[anchor] == candidate
        if self.anchor_ids is not None and self.candidate_ids is not None:
            out |= self.anchor_ids[anchor] == self.candidate_ids[candidate]
        kept = places_in(~out)
        return anchor[kept], candidate[kept]

    def not_negative(self) -> PairList:
        """List every pair that is no negative: of one kind or never compared. A pair may come twice."""
        lists = [self.kinship.pairs()]
        if self.own is not None:
            anchor = places_in(self.own >= 0)
            lists.append((anchor, self.own[anchor]))
        if self.anchor_ids is not None and self.candidate_ids is not None:
            lists.append(matches(self.anchor_ids, self.candidate_ids))
        anchors, candidates = zip(*lists, strict=True)
        return torch.cat(anchors), torch.cat(candidates)

    def negative(self, rows: Int[Tensor, " row"]) -> Bool[Tensor, "row candidate"]:
        """Say for each of the anchors in ``rows`` which candidates are its negatives."""
        mask = ~self.kinship.mask(rows)
        if self.own is not None:
            own = self.own[rows]
            there = places_in(own >= 0)
            mask[there, own[there]] = False
        if self.anchor_ids is not None and self.candidate_ids is not None:
            mask &= self.anchor_ids[rows, None] != self.candidate_ids[None, :]
        return mask

    @property
    def left_out(self) -> tuple[Bool[Tensor, "anchor candidate"], Bool[Tensor, "anchor candidate"]]:
        """Say of every comparison whether it is no positive, and whether it is no negative."""
        if self._left_out is None:
            self._left_out = self._compared()
        return self._left_out

    def _compared(self) -> tuple[Tensor, Tensor]:
        if self.symmetric and isinstance(self.kinship, SameClass) and self.anchor_ids is None:
            # Each is of its own class, and none is compared with itself.
            labels, others = self.kinship.anchors.unsqueeze(1), self.kinship.candidates
            return labels.ne(others).fill_diagonal_(True), labels.eq(others)
        alike, never = self.kinship.mask(), None
        if self.symmetric:
            never = torch.eye(len(alike), dtype=torch.bool, device=alike.device)
        elif self.own is not None:
            never = self.own[:, None] == torch.arange(alike.shape[1], device=alike.device)
        if self.anchor_ids is not None and self.candidate_ids is not None:
            same = self.anchor_ids[:, None] == self.candidate_ids[None, :]
            never = same if never is None else never | same
        return (~alike, alike) if never is None else (~alike | never, alike | never)

    def take(self, rows: Int[Tensor, " row"]) -> "Relation":
        """Keep only some of the anchors."""
        return replace(
            self,
            kinship=self.kinship.take(rows),
            own_columns=None if self.own is None else self.own[rows],
            anchor_ids=None if self.anchor_ids is None else self.anchor_ids[rows],
            rows=rows if self.rows is None else self.rows[rows],
            symmetric=False,
        )

    def among(self, some: slice) -> "Relation":
        """Keep only a run of the candidates."""
        own = self.own
        if own is not None:
            own = torch.where((own >= some.start) & (own < some.stop), own - some.start, -1)
        return replace(
            self,
            kinship=self.kinship.among(some),
            own_columns=own,
            candidate_ids=None if self.candidate_ids is None else self.candidate_ids[some],
            symmetric=False,
        )


def _brought(*given: Int[Tensor, " n"] | None) -> list[Int[Tensor, " n"] | None]:
    """Return the same numbers on the host, in one transfer; what is given twice is one tensor there, too."""
    some = {id(x): x for x in given if x is not None}
    every = torch.cat([x.long() for x in some.values()]).cpu()
    found = dict(zip(some, every.split([len(x) for x in some.values()]), strict=True))
    return [None if x is None else found[id(x)] for x in given]
