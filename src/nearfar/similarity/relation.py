"""Who is a positive, who is a negative and who is never compared."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Relation:
    """Labels of both sides, and which comparisons are left out.

    A candidate is a positive of an anchor when their labels are equal and a negative when they differ,
    unless the pair is excluded: the candidate is the anchor itself, or both carry the same id.

    Attributes:
        anchors: label of each anchor.
        candidates: label of each candidate.
        own: the candidate that IS the anchor, or -1; None when no anchor is among the candidates.
        anchor_ids: id of each anchor, or None.
        candidate_ids: id of each candidate, or None.
    """

    anchors: Int[Tensor, " anchor"]
    candidates: Int[Tensor, " candidate"]
    own: Int[Tensor, " anchor"] | None = None
    anchor_ids: Int[Tensor, " anchor"] | None = None
    candidate_ids: Int[Tensor, " candidate"] | None = None

    def positives(self) -> tuple[Int[Tensor, " positive"], Int[Tensor, " positive"]]:
        """List the positive pairs (anchor, candidate), ordered by anchor, then by candidate."""
        by_label = torch.argsort(self.candidates, stable=True)
        ordered = self.candidates[by_label]
        first = torch.searchsorted(ordered, self.anchors)
        count = torch.searchsorted(ordered, self.anchors, right=True) - first
        anchor = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        place = torch.arange(len(anchor), device=count.device) - (count.cumsum(0) - count)[anchor]
        candidate = by_label[first[anchor] + place]
        kept = ~self._excluded(anchor, candidate)
        return anchor[kept], candidate[kept]

    def negative(self, rows: Int[Tensor, " row"]) -> Bool[Tensor, "row candidate"]:
        """Say for each of the anchors in ``rows`` which candidates are its negatives."""
        mask = self.anchors[rows, None] != self.candidates[None, :]
        if self.own is not None:
            own = self.own[rows]
            there = torch.nonzero(own >= 0).squeeze(1)
            mask[there, own[there]] = False
        if self.anchor_ids is not None and self.candidate_ids is not None:
            mask &= self.anchor_ids[rows, None] != self.candidate_ids[None, :]
        return mask

    def _excluded(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        out = torch.zeros_like(anchor, dtype=torch.bool)
        if self.own is not None:
            out |= self.own[anchor] == candidate
        if self.anchor_ids is not None and self.candidate_ids is not None:
            out |= self.anchor_ids[anchor] == self.candidate_ids[candidate]
        return out
