"""What a loss saw in its last batch."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nearfar.criterion.finite import FINITE, Verdict
from nearfar.losses.parts.terms import Terms
from nearfar.once import once
from nearfar.pairs import Pairs
from nearfar.similarity import Count, Sum


@dataclass(eq=False)
class Statistics:
    """What a loss saw in its last batch; computed when read, without gradient.

    Attributes:
        terms: the terms of the batch.
        pairs: its comparisons, before mining; None for a batch that was taken some anchors at a time.
        mined: whether a rule chose among them.
        verdict: whether the batch was finite; else they are all NaN.
    """

    terms: Terms
    pairs: Pairs | None
    mined: bool
    verdict: Verdict = FINITE

    @classmethod
    def of(
        cls, parts: Sequence[Terms], pairs: Pairs | None, mined: bool, verdict: Verdict = FINITE
    ) -> "Statistics":
        """Keep what a loss came of; its parts are added up."""
        first = parts[0].detach()
        for part in parts[1:]:
            other = part.detach()
            first = Terms(first.total + other.total, first.count + other.count, first.active + other.active)
        return cls(first, None if pairs is None else pairs.plain, mined, verdict)

    @once
    def active(self) -> Float[Tensor, ""]:
        """Share of terms that are not zero, in [0, 1]; NaN when there are none.

        Mining keeps few terms, most of them not zero: then the share of anchors that have such a term.
        """
        if self.mined:
            return self.verdict.value((self.terms.active > 0).to(self.terms.active).mean())
        return self.verdict.value(self.terms.active.sum() / self.terms.count.sum())

    @once
    def positive_similarity(self) -> Float[Tensor, ""]:
        """Mean similarity of all positive pairs; NaN when there are none, or too many to list."""
        if self.pairs is None:
            return self.terms.total.new_full((), float("nan"))
        return self.verdict.value(self.pairs.as_list().positives.similarity.mean())

    @once
    def negative_similarity(self) -> Float[Tensor, ""]:
        """Mean similarity of all negative pairs; NaN when there are none, or too many positives to list."""
        if self.pairs is None:
            return self.terms.total.new_full((), float("nan"))
        total, count = self.pairs.stream(Sum(), Count())
        return self.verdict.value(total.sum() / count.sum())
