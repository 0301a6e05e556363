"""Anchors against candidates: the one block of comparisons that every loss reads."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nearfar.errors import NearfarError, suggest
from nearfar.inputs import check_embeddings, check_ids, check_own
from nearfar.similarity import ArgMax, Backend, Block, Measure, Reduction, Relation, choose, normalize
from nearfar.similarity.dense import reduce
from nearfar.similarity.interval import Interval
from nearfar.similarity.reductions import threshold_of

Reduce = Literal["sum", "max", "min", "logsumexp", "count"]


@dataclass(frozen=True, eq=False)
class Positives:
    """The positive pairs, explicit and sparse, ordered by anchor.

    Attributes:
        anchor: row of each pair's anchor.
        candidate: row of each pair's candidate.
        similarity: larger is nearer (a Euclidean measure gives the negated distance); differentiable.
    """

    anchor: Int[Tensor, " positive"]
    candidate: Int[Tensor, " positive"]
    similarity: Float[Tensor, " positive"]


@dataclass(frozen=True, eq=False)
class Chosen:
    """Explicit negatives: a few columns for each anchor, or one for each positive pair; -1 is none."""

    columns: Int[Tensor, "row k"]
    per: Literal["anchor", "positive"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Comparisons between anchors and candidates: positives few and explicit, negatives many and streamed.

    Build one with ``Pairs.within`` (a batch against itself) or ``Pairs.between``. A loss reads ``positives``,
    ``per_anchor`` and ``stream``; a mining rule returns ``narrow(...)``.
    """

    block: Block
    backend: Backend
    positives: Positives
    interval: Interval
    chosen: Chosen | None = None

    @classmethod
    def within(
        cls,
        embeddings: Float[Tensor, "n dim"],
        labels: Int[Tensor, " n"],
        *,
        ids: Int[Tensor, " n"] | None = None,
        similarity: Measure = "cosine",
        backend: str = "auto",
    ) -> "Pairs":
        """Compare a batch with itself; an anchor is never its own candidate (by index).

        Args:
            embeddings: one row per item; normalised here when ``similarity`` is "cosine".
            labels: class of each row; equal means positive.
            ids: two rows with the same id are never compared.
            similarity: "cosine", "dot", "euclidean" or "squared_euclidean".
            backend: "auto", "dense" or "reference".

        Raises:
            NearfarError: if shapes or types do not fit, or a name is unknown.
        """
        check_embeddings(embeddings, labels, "embeddings", "labels")
        check_ids(ids, len(labels), ids, len(labels))
        own = torch.arange(len(labels), device=labels.device)
        return cls._build(
            embeddings, embeddings, Relation(labels.long(), labels.long(), own, ids, ids), similarity, backend
        )

    @classmethod
    def between(
        cls,
        anchors: Float[Tensor, "n dim"],
        labels: Int[Tensor, " n"],
        candidates: Float[Tensor, "m dim"],
        candidate_labels: Int[Tensor, " m"],
        own: Int[Tensor, " n"] | None = None,
        *,
        ids: Int[Tensor, " n"] | None = None,
        candidate_ids: Int[Tensor, " m"] | None = None,
        similarity: Measure = "cosine",
        backend: str = "auto",
    ) -> "Pairs":
        """Compare anchors with candidates: a memory, gathered ranks, a gallery.

        Args:
            own: the row of ``candidates`` that IS each anchor, or -1; such a pair is never compared.
            ids, candidate_ids: an anchor and a candidate with the same id are never compared.

        Raises:
            NearfarError: if shapes or types do not fit, or a name is unknown.
        """
        check_embeddings(anchors, labels, "anchors", "labels")
        check_embeddings(candidates, candidate_labels, "candidates", "candidate_labels")
        if anchors.shape[1] != candidates.shape[1]:
            raise NearfarError(
                f"anchors have {anchors.shape[1]} dimensions but candidates have {candidates.shape[1]}; "
                "compare embeddings of one model."
            )
        check_own(own, len(anchors), len(candidates))
        check_ids(ids, len(anchors), candidate_ids, len(candidates))
        relation = Relation(labels.long(), candidate_labels.long(), own, ids, candidate_ids)
        return cls._build(anchors, candidates, relation, similarity, backend)

    @classmethod
    def _build(
        cls, anchors: Tensor, candidates: Tensor, relation: Relation, similarity: Measure, backend: str
    ) -> "Pairs":
        if similarity not in get_args(Measure):
            known = list(get_args(Measure))
            raise NearfarError(
                f"similarity {similarity!r} is not one of {', '.join(known)}.{suggest(similarity, known)}"
            )
        computed_by = choose(backend)

        def prepare(x: Tensor) -> Tensor:
            x = computed_by.prepare(x)
            return normalize(x) if similarity == "cosine" else x

        left = prepare(anchors)
        block = Block(left, left if candidates is anchors else prepare(candidates), similarity, relation)
        anchor, candidate = relation.positives()
        positives = Positives(anchor, candidate, computed_by.positives(block, anchor, candidate))
        return cls(block, computed_by, positives, Interval())

    def __len__(self) -> int:
        """Return the number of anchors."""
        return len(self.block.anchors)

    @property
    def measure(self) -> Measure:
        """The measure that similarities come from."""
        return self.block.measure

    @cached_property
    def positive_count(self) -> Float[Tensor, " anchor"]:
        """How many positives each anchor has."""
        return self.per_anchor(torch.ones_like(self.positives.similarity), "sum")

    def per_anchor(self, values: Float[Tensor, " positive"], how: Reduce) -> Float[Tensor, " anchor"]:
        """Reduce one value per positive pair to one per anchor.

        An anchor without positives gets 0 for "sum" and "count", -inf for "max" and "logsumexp", +inf for
        "min"; no gradient flows there.
        """
        anchor, n = self.positives.anchor, len(self)
        match how:
            case "sum":
                return values.new_zeros(n).index_add(0, anchor, values)
            case "count":
                return values.new_zeros(n).index_add(0, anchor, torch.ones_like(values))
            case "max":
                return self._first_where_equal(values, values.detach(), "amax", -torch.inf)
            case "min":
                return self._first_where_equal(values, values.detach(), "amin", torch.inf)
            case "logsumexp":
                top = _segment(values.detach(), anchor, n, "amax", -torch.inf)
                some = top > -torch.inf
                total = values.new_zeros(n).index_add(0, anchor, (values - top[anchor]).exp())
                return torch.where(some, total, 1.0).log() + top

    def stream(self, *reductions: Reduction) -> tuple[Tensor, ...]:
        """Reduce each anchor's negatives, in one pass for all ``reductions``.

        Returns:
            One tensor for each reduction, [anchor] (or [positive] for ``per="positive"``), differentiable.
        """
        if self.chosen is None:
            return self.backend.stream(self.block, self.interval, self.positives.anchor, reductions)
        return tuple(self._stream_chosen(self.chosen, reduction) for reduction in reductions)

    def narrow(
        self,
        *,
        positives: Bool[Tensor, " positive"] | None = None,
        above: Float[Tensor, " anchor"] | None = None,
        below: Float[Tensor, " anchor"] | None = None,
        columns: Int[Tensor, "anchor k"] | None = None,
        partners: Int[Tensor, " positive"] | None = None,
    ) -> "Pairs":
        """Keep some of the comparisons: what a mining rule returns.

        Args:
            positives: which positive pairs to keep.
            above, below: keep negatives with above < s < below, for each anchor.
            columns: keep just these negatives of each anchor; -1 is none.
            partners: keep just this one negative for each positive pair (a triplet); -1 is none.
        """
        if columns is not None and partners is not None:
            raise NearfarError("narrow takes columns (per anchor) or partners (per positive), not both.")
        chosen = self.chosen
        if columns is not None:
            chosen = Chosen(columns, "anchor")
        elif partners is not None:
            chosen = Chosen(partners[:, None], "positive")
        kept = self.positives
        if positives is not None:
            kept = Positives(kept.anchor[positives], kept.candidate[positives], kept.similarity[positives])
            if chosen is not None and chosen.per == "positive":
                chosen = Chosen(chosen.columns[positives], "positive")
        bounds = Interval(
            above=None if above is None else above.detach(), below=None if below is None else below.detach()
        )
        return replace(self, positives=kept, chosen=chosen, interval=self.interval.intersect(bounds))

    def detach(self) -> "Pairs":
        """Return the same comparisons without gradient."""
        block = replace(
            self.block, anchors=self.block.anchors.detach(), candidates=self.block.candidates.detach()
        )
        positives = replace(self.positives, similarity=self.positives.similarity.detach())
        return replace(self, block=block, positives=positives)

    def _stream_chosen(self, chosen: Chosen, reduction: Reduction) -> Tensor:
        """Reduce explicit negatives: their similarities are few, so they are gathered."""
        rows = torch.arange(len(self), device=self.positives.anchor.device)
        columns = chosen.columns
        if reduction.per == "positive":
            rows = self.positives.anchor
            columns = columns[rows] if chosen.per == "anchor" else columns
        elif chosen.per == "positive":
            columns = self._distinct(columns[:, 0])
        if columns.shape[1] == 0:
            columns = columns.new_full((len(columns), 1), -1)
        anchor = rows[:, None].expand_as(columns)
        s = self.block.at(anchor.reshape(-1), columns.clamp_min(0).reshape(-1)).view(columns.shape)
        keep = (columns >= 0) & self.interval.holds(s, rows)
        result = reduce(s, keep, reduction, threshold_of(reduction))
        if isinstance(reduction, ArgMax):
            found = columns.gather(1, result.clamp_min(0)[:, None])[:, 0]
            return torch.where(result < 0, result, found)
        return result

    def _distinct(self, partner: Tensor) -> Tensor:
        """List each anchor's distinct partners, padded with -1: [anchor, k]."""
        m = len(self.block.candidates)
        there = partner >= 0
        pair = torch.unique(self.positives.anchor[there] * m + partner[there])
        anchor, column = pair // m, pair % m
        count = torch.bincount(anchor, minlength=len(self))
        place = torch.arange(len(pair), device=pair.device) - (count.cumsum(0) - count)[anchor]
        columns = partner.new_full((len(self), int(count.max()) if len(pair) else 0), -1)
        columns[anchor, place] = column
        return columns

    def _first_where_equal(self, values: Tensor, plain: Tensor, how: str, empty: float) -> Tensor:
        """Take each anchor's extreme value; its gradient goes to one pair, the first that attains it."""
        anchor, n = self.positives.anchor, len(self)
        extreme = _segment(plain, anchor, n, how, empty)
        hit = torch.nonzero(plain == extreme[anchor]).squeeze(1)
        first = torch.full((n,), len(values), device=anchor.device)
        first = first.scatter_reduce(0, anchor[hit], hit, "amin")
        some = first < len(values)
        taken = values[first[some]]
        return values.new_full((n,), empty).index_put((torch.nonzero(some).squeeze(1),), taken)


def _segment(values: Tensor, anchor: Tensor, n: int, how: str, empty: float) -> Tensor:
    return values.new_full((n,), empty).scatter_reduce(0, anchor, values, how)
