"""Anchors against candidates: the one block of comparisons that every loss reads."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nearfar.errors import NearfarError, suggest
from nearfar.inputs import Labels, check_embeddings, check_same_dim, relate
from nearfar.kept import Against, Chosen, Positives
from nearfar.similarity import (
    ArgMax,
    Block,
    Measure,
    OrderStatistic,
    Reduction,
    Relation,
    Sample,
    TopK,
    choose,
)
from nearfar.similarity.dense.reduce import reduce
from nearfar.similarity.interval import Interval
from nearfar.similarity.reductions import Per, threshold_of
from nearfar.similarity.stored import Stored

Reduce = Literal["sum", "max", "min", "logsumexp", "count"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Comparisons between anchors and candidates: positives few and explicit, negatives many and streamed.

    Build one with ``Pairs.within`` (a batch against itself) or ``Pairs.between``. A loss reads ``positives``,
    ``per_anchor`` and ``stream``; a mining rule returns ``narrow(...)``.
    """

    block: Block
    listed: Positives
    interval: Interval
    chosen: Chosen | None = None
    against: Against | None = None

    @classmethod
    def within(
        cls,
        embeddings: Float[Tensor, "n dim"],
        labels: Labels,
        *,
        ids: Int[Tensor, " n"] | None = None,
        similarity: Measure = "cosine",
        backend: str = "auto",
    ) -> "Pairs":
        """Compare a batch with itself; an anchor is never its own candidate (by index).

        Args:
            embeddings: one row per item; normalised here when ``similarity`` is "cosine".
            labels: class of each row (equal means positive), tags as multi-hot rows (a shared tag means
                positive), or ``Relevance``.
            ids: two rows with the same id are never compared.
            similarity: "cosine", "dot", "euclidean" or "squared_euclidean".
            backend: "auto", "tiled", "dense" or "reference".

        Raises:
            NearfarError: if shapes or types do not fit, or a name is unknown.
        """
        n = check_embeddings(embeddings, "embeddings")
        return cls.of(embeddings, embeddings, relate(n, labels, ids=ids), similarity, backend)

    @classmethod
    def between(
        cls,
        anchors: Float[Tensor, "n dim"],
        labels: Labels,
        candidates: Float[Tensor, "m dim"],
        candidate_labels: Int[Tensor, " m"] | Int[Tensor, "m tag"] | None = None,
        own: Int[Tensor, " n"] | None = None,
        *,
        ids: Int[Tensor, " n"] | None = None,
        candidate_ids: Int[Tensor, " m"] | None = None,
        similarity: Measure = "cosine",
        backend: str = "auto",
    ) -> "Pairs":
        """Compare anchors with candidates: a memory, gathered ranks, a gallery.

        Args:
            candidate_labels: class or tags of each candidate; None when ``labels`` is a ``Relevance``.
            own: the row of ``candidates`` that IS each anchor, or -1; such a pair is never compared.
            ids, candidate_ids: an anchor and a candidate with the same id are never compared.

        Raises:
            NearfarError: if shapes or types do not fit, or a name is unknown.
        """
        n = check_embeddings(anchors, "anchors")
        m = check_embeddings(candidates, "candidates")
        check_same_dim(anchors, candidates)
        relation = relate(n, labels, m, candidate_labels, own=own, ids=ids, candidate_ids=candidate_ids)
        return cls.of(anchors, candidates, relation, similarity, backend)

    @classmethod
    def of(
        cls,
        anchors: Float[Tensor, "n dim"],
        candidates: Float[Tensor, "m dim"],
        relation: Relation,
        similarity: Measure = "cosine",
        backend: str = "auto",
        stored: Stored | None = None,
    ) -> "Pairs":
        """Compare anchors with candidates that stand in a known relation (see ``relate``).

        Args:
            stored: further candidates, after the others, without gradient.
        """
        if anchors.shape[1] != candidates.shape[1]:
            raise NearfarError(
                f"anchors have {anchors.shape[1]} dimensions but candidates have {candidates.shape[1]}; "
                "compare embeddings of one model."
            )
        if candidates is not anchors:
            dtype = torch.promote_types(anchors.dtype, candidates.dtype)
            anchors, candidates = anchors.to(dtype), candidates.to(dtype)
        if similarity not in get_args(Measure):
            known = list(get_args(Measure))
            raise NearfarError(
                f"similarity {similarity!r} is not one of {', '.join(known)}.{suggest(similarity, known)}"
            )
        width = len(candidates) + (0 if stored is None else len(stored))
        block = choose(backend, len(anchors), width)(anchors, candidates, similarity, relation, stored)
        return cls.over(block)

    @classmethod
    def over(cls, block: Block) -> "Pairs":
        """Compare as a block does."""
        anchor, candidate = block.relation.positives()
        return cls(block, Positives(anchor, candidate, block.positives(anchor, candidate)), Interval())

    def __len__(self) -> int:
        """Return the number of anchors."""
        return len(self.block)

    @property
    def measure(self) -> Measure:
        """The measure that similarities come from."""
        return self.block.measure

    @cached_property
    def positives(self) -> Positives:
        """The positive pairs that mining has left."""
        if self.against is None:
            return self.listed
        if self.against.answer is None:
            (self.against.answer,) = self._reduce((self.against.reduction,), self.listed.anchor)
        return self.listed.where(self.against.keep(self.against.answer))

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
            One tensor for each reduction, [anchor] ([positive] or [candidate] as its ``per`` says),
            differentiable. See ``nearfar.similarity.reductions``.
        """
        against = self.against
        one_pass = against is not None and against.answer is None and self.chosen is None
        if against is None or not one_pass or any(r.per == "positive" for r in reductions):
            return self._reduce(reductions, self.positives.anchor)
        *results, answer = self._reduce((*reductions, against.reduction), self.listed.anchor)
        against.answer = answer.detach()
        return tuple(results)

    def narrow(
        self,
        *,
        positives: Bool[Tensor, " positive"] | Against | None = None,
        above: Float[Tensor, " anchor"] | None = None,
        below: Float[Tensor, " anchor"] | None = None,
        columns: Int[Tensor, "anchor k"] | None = None,
        partners: Int[Tensor, " positive"] | None = None,
    ) -> "Pairs":
        """Keep some of the comparisons: what a mining rule returns.

        Args:
            positives: which positive pairs to keep, or ``Against`` what they are to be held.
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
        kept, against = self.positives, None
        if isinstance(positives, Against):
            against = positives
        elif positives is not None:
            kept = kept.where(positives)
            if chosen is not None and chosen.per == "positive":
                chosen = Chosen(chosen.columns[positives], "positive")
        bounds = Interval(
            above=None if above is None else above.detach(), below=None if below is None else below.detach()
        )
        return Pairs(self.block, kept, self.interval.intersect(bounds), chosen, against)

    def detach(self) -> "Pairs":
        """Return the same comparisons without gradient."""
        kept = self.positives
        kept = Positives(kept.anchor, kept.candidate, kept.similarity.detach())
        return Pairs(self.block.map(Tensor.detach), kept, self.interval, self.chosen)

    def scaled(self, factor: float | Float[Tensor, ""]) -> "Pairs":
        """Return the same comparisons with every similarity times ``factor`` (> 0), which may be learned."""
        if isinstance(factor, Tensor):  # its root is to be as exact as the vectors
            factor = factor.to(self.listed.similarity.dtype)
        if self.measure in ("cosine", "dot") and not self.block.relation.symmetric:
            block = self.block.map(lambda x: x * factor, candidates=lambda x: x)
        else:
            power = 1.0 if self.measure == "euclidean" else 0.5
            block = self.block.map(lambda x: x * factor**power)
        kept = self.positives
        plain = factor.detach() if isinstance(factor, Tensor) else factor
        interval = Interval(
            *(
                None if bound is None else bound * plain
                for bound in (self.interval.above, self.interval.below)
            )
        )
        scaled = Positives(kept.anchor, kept.candidate, kept.similarity * factor)
        return Pairs(block, scaled, interval, self.chosen)

    def _reduce(self, reductions: tuple[Reduction, ...], owners: Tensor) -> tuple[Tensor, ...]:
        if self.chosen is None:
            return self.block.stream(self.interval, owners, reductions)
        few = {per: self._similarities(self.chosen, per, owners) for per in {r.per for r in reductions}}
        return tuple(_reduce_few(*few[reduction.per], reduction) for reduction in reductions)

    def _similarities(self, chosen: Chosen, per: Per, owners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Explicit negatives of each row: columns [row, k], similarities, and which of them count."""
        if per == "candidate":
            raise NearfarError(
                "this loss reduces over each candidate's anchors, which mining that chooses a few negatives "
                "for each anchor does not leave; use a rule that narrows by similarity, or none."
            )
        rows = torch.arange(len(self), device=owners.device)
        columns = chosen.columns
        if per == "positive":
            rows = owners
            columns = columns[rows] if chosen.per == "anchor" else columns
        elif chosen.per == "positive":
            columns = self._distinct(columns[:, 0])
        if columns.shape[1] == 0:
            columns = columns.new_full((len(columns), 1), -1)
        anchor = rows[:, None].expand_as(columns)
        s = self.block.at(anchor.reshape(-1), columns.clamp_min(0).reshape(-1)).view(columns.shape)
        return columns, s, (columns >= 0) & self.interval.holds(s, rows)

    def _distinct(self, partner: Tensor) -> Tensor:
        """List each anchor's distinct partners, padded with -1: [anchor, k]."""
        m = max(1, 1 + int(partner.max())) if len(partner) else 1
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


def _reduce_few(columns: Tensor, s: Tensor, keep: Tensor, reduction: Reduction) -> Tensor:
    """Reduce explicit negatives: their similarities are few, so they have been gathered."""
    if isinstance(reduction, OrderStatistic) and reduction.over == "batch":
        return reduce(s.view(1, -1), keep.view(1, -1), reduction, 0.0).expand(len(s))
    result = reduce(s, keep, reduction, threshold_of(reduction))
    if isinstance(reduction, ArgMax | TopK | Sample):
        place = result[:, None] if result.ndim == 1 else result
        found = columns.gather(1, place.clamp_min(0)).masked_fill(place < 0, -1)
        return found.view(result.shape)
    return result


def _segment(values: Tensor, anchor: Tensor, n: int, how: str, empty: float) -> Tensor:
    return values.new_full((n,), empty).scatter_reduce(0, anchor, values, how)
