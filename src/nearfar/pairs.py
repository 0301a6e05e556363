"""Anchors against candidates: the one block of comparisons that every loss reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from nearfar import named
from nearfar.errors import NearfarError, suggest
from nearfar.inputs import Labels, check_embeddings, check_same_dim, relate
from nearfar.kept import Against, Chosen, Positives, Reduce
from nearfar.once import once
from nearfar.positive_table import PositiveTable
from nearfar.similarity import (
    Block,
    Measure,
    Reduction,
    Relation,
    choose,
)
from nearfar.similarity.dense.matrix import DenseBlock
from nearfar.similarity.interval import EVERYTHING, Interval
from nearfar.similarity.reductions import Negated, empty_of, held_against
from nearfar.similarity.stable import at_once
from nearfar.similarity.stored import Stored


@dataclass(eq=False)
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
    _plain: "Pairs | None" = field(default=None, init=False, repr=False)

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
        *,
        table: bool = False,
    ) -> "Pairs":
        """Compare anchors with candidates that stand in a known relation (see ``relate``).

        Args:
            stored: further candidates, after the others, without gradient.
            table: put the positives in a table, where all similarities are in memory.
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
        return cls.tabled(block) if table else cls.over(block)

    @classmethod
    def over(cls, block: Block) -> "Pairs":
        """Compare as a block does."""
        anchor, candidate = block.relation.positives()
        return cls(block, Positives(anchor, candidate, block.positives(anchor, candidate)), EVERYTHING)

    @classmethod
    def tabled(cls, block: Block) -> "Pairs":
        """Compare as a block does, with a table of positives where all similarities are in memory."""
        if not isinstance(block, DenseBlock) or 0 in block.shape:
            return cls.over(block)
        return cls(block, PositiveTable(block.relation.left_out[0], block), EVERYTHING)

    def as_list(self) -> "Pairs":
        """Return the same comparisons, the positives one by one."""
        kept = self.positives
        if not isinstance(kept, PositiveTable):
            return self
        chosen = self.chosen
        if chosen is not None and chosen.per == "positive":
            chosen = Chosen(chosen.columns.flatten(0, 1).index_select(0, kept.listed), "positive")
        return Pairs(self.block, kept.as_list(), self.interval, chosen)

    def short(self, *, wait: bool = True) -> "Pairs":
        """Return the same comparisons, a table of positives in as few columns as an anchor has positives.

        Args:
            wait: wait for a device to know how many that are; else only where nobody has to wait.
        """
        kept = self.positives
        if not isinstance(kept, PositiveTable) or not (wait or at_once(kept.absent)):
            return self
        few, chosen = kept.short(), self.chosen
        if few is not kept and chosen is not None and chosen.per == "positive":
            chosen = chosen.where(few.candidate)
        return Pairs(self.block, few, self.interval, chosen)

    @property
    def is_short(self) -> bool:
        """Whether positives are in a table of few columns."""
        return isinstance(self.positives, PositiveTable) and self.positives.columns is not None

    def __len__(self) -> int:
        """Return the number of anchors."""
        return len(self.block)

    @property
    def measure(self) -> Measure:
        """The measure that similarities come from."""
        return self.block.measure

    @property
    def positives(self) -> Positives:
        """The positive pairs that mining has left."""
        return self.listed if self.against is None else self._left

    @once
    def _left(self) -> Positives:
        assert self.against is not None
        if self.against.answer is None:
            plain = Pairs(self.block.map(Tensor.detach), self.listed, self.interval, self.chosen)
            (self.against.answer,) = plain._reduce((self.against.reduction,), self.listed)
        return self.listed.where(self.against.keep(self.against.answer))

    @once
    def positive_count(self) -> Float[Tensor, " anchor"]:
        """How many positives each anchor has."""
        return self.positives.count(len(self))

    def per_anchor(self, values: Float[Tensor, "*positive"], how: Reduce) -> Float[Tensor, " anchor"]:
        """Reduce one value per positive pair to one per anchor.

        An anchor without positives gets 0 for "sum" and "count", -inf for "max" and "logsumexp", +inf for
        "min"; no gradient flows there.
        """
        return self.positives.reduce(values, how, len(self))

    def of_anchor(self, x: Shaped[Tensor, " anchor"]) -> Shaped[Tensor, "*positive"]:
        """Return, for each positive pair, what its anchor has."""
        return self.positives.of_anchor(x)

    def of_candidate(self, x: Shaped[Tensor, " candidate"]) -> Shaped[Tensor, "*positive"]:
        """Return, for each positive pair, what its candidate has."""
        return self.positives.of_candidate(x)

    def least(self, values: Float[Tensor, "*positive"]) -> Tensor:
        """Say, as ``narrow`` takes it, which of an anchor's pairs has the smallest value."""
        return self.positives.least(values, len(self))

    def stream(self, *reductions: Reduction) -> tuple[Tensor, ...]:
        """Reduce each anchor's negatives, in one pass for all ``reductions``.

        Returns:
            One tensor for each reduction, [anchor] ([positive] or [candidate] as its ``per`` says),
            differentiable. See ``nearfar.similarity.reductions``.
        """
        against = self.against
        one_pass = against is not None and against.answer is None and self.chosen is None
        if against is None or not one_pass or any(r.per == "positive" for r in reductions):
            return self._reduce(reductions, self.positives)
        *results, answer = self._reduce((*reductions, against.reduction), self.listed)
        against.answer = answer.detach()
        return tuple(results)

    def both(
        self, negatives: Sequence[Reduction], positives: Sequence[Reduction | Negated]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Reduce each anchor's negatives as ``stream`` does, and its positives.

        Args:
            positives: sums, counts or ``LogSumExp`` over positives, for each anchor; thresholds are numbers,
                or one for each anchor.

        Returns:
            One tensor for each reduction, [anchor], differentiable: of the negatives, and of the positives.
        """
        kept, block = self.listed, self.block
        if self.chosen is None and isinstance(kept, PositiveTable) and kept.columns is None:
            kept, count = self.positives, len(negatives)
            assert isinstance(kept, PositiveTable)
            assert isinstance(block, DenseBlock)
            found = block.both(self.interval, negatives, kept.asked(positives, block.is_cosine))
            return found[:count], found[count:]
        streamed = self.stream(*negatives) if negatives else ()
        return streamed, tuple(self.positives.reduced(positives, len(self)))

    def narrow(
        self,
        *,
        positives: Bool[Tensor, "*positive"] | Int[Tensor, "anchor few"] | Against | None = None,
        above: Float[Tensor, " anchor"] | None = None,
        below: Float[Tensor, " anchor"] | None = None,
        columns: Int[Tensor, "anchor k"] | None = None,
        partners: Int[Tensor, "*positive"] | None = None,
    ) -> "Pairs":
        """Keep some of the comparisons: what a mining rule returns.

        Args:
            positives: which positive pairs to keep (see ``least``), or ``Against`` what they are to be held.
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
            chosen = Chosen(partners[..., None], "positive")
        kept, against = self.positives, None
        if isinstance(positives, Against):
            against = positives
        elif positives is not None:
            kept = kept.where(positives)
            if chosen is not None and chosen.per == "positive":
                chosen = chosen.where(positives)
        bounds = Interval(
            above=None if above is None else above.detach(), below=None if below is None else below.detach()
        )
        return Pairs(self.block, kept, self.interval.intersect(bounds), chosen, against)

    @property
    def plain(self) -> "Pairs":
        """The same comparisons without gradient, for what is counted."""
        if self._plain is None:
            self._plain = self.detach()
        return self._plain

    def detach(self) -> "Pairs":
        """Return the same comparisons without gradient."""
        return Pairs(self.block.map(Tensor.detach), self.positives.detach(), self.interval, self.chosen)

    def scaled(self, factor: float | Float[Tensor, ""]) -> "Pairs":
        """Return the same comparisons with every similarity times ``factor`` (> 0), which may be learned."""
        if isinstance(factor, Tensor):  # its root is to be as exact as the vectors
            factor = factor.to(self.listed.similarity.dtype)
        if isinstance(self.block, DenseBlock):
            block: Block = self.block.scaled(factor)
        elif self.measure in ("cosine", "dot") and not self.block.relation.symmetric:
            block = self.block.map(lambda x: x * factor, candidates=lambda x: x)
        else:
            power = 1.0 if self.measure == "euclidean" else 0.5
            block = self.block.map(lambda x: x * factor**power)
        plain = factor.detach() if isinstance(factor, Tensor) else factor
        interval = Interval(
            *(
                None if bound is None else bound * plain
                for bound in (self.interval.above, self.interval.below)
            )
        )
        return Pairs(block, self.positives.scaled(factor), interval, self.chosen)

    def _reduce(self, reductions: tuple[Reduction, ...], kept: Positives) -> tuple[Tensor, ...]:
        if self.chosen is not None:
            return named.reduce(self.block, self.interval, self.chosen, kept, reductions)
        if not isinstance(kept, PositiveTable):
            return self.block.stream(self.interval, kept.anchor, reductions)
        # What has a value for each positive pair needs a row of negatives for each: those that there are.
        if all(reduction.per != "positive" for reduction in reductions):
            return self.block.stream(self.interval, kept.absent, reductions)
        owners = kept.held // max(1, kept.absent.shape[1])
        listed = [held_against(r, kept.held) if r.per == "positive" else r for r in reductions]
        found = self.block.stream(self.interval, owners, listed)
        return tuple(
            kept.spread(value, empty_of(reduction)) if reduction.per == "positive" else value
            for value, reduction in zip(found, reductions, strict=True)
        )
