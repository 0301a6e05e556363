"""What mining keeps: positive pairs, and negatives that are named one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nearfar.once import once
from nearfar.similarity import Reduction
from nearfar.similarity.dense.reduce import logits, term
from nearfar.similarity.reductions import CURVES, LogSumExp, Negated, threshold_of
from nearfar.similarity.stable import places_in, taken

Reduce = Literal["sum", "max", "min", "logsumexp", "count"]


@dataclass(eq=False)
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

    @property
    def some(self) -> bool | Tensor:
        """Whether there is a pair."""
        return len(self.anchor) > 0

    @property
    def plain(self) -> Float[Tensor, "*positive"]:
        """Their similarities without gradient; in a table, any number where there is no pair."""
        return self.similarity.detach()

    @once
    def on_host(self) -> tuple[Int[np.ndarray, " positive"], Int[np.ndarray, " positive"]]:
        """Anchors and candidates where the host can read them; a device is waited for."""
        anchor, candidate = torch.stack([self.anchor, self.candidate]).cpu().numpy()
        return anchor, candidate

    def owners(self, n: int) -> Callable[[], Bool[Tensor, " anchor"]]:
        """Return what says, when it is asked, which of n anchors have a pair; it holds no similarities."""
        anchor = self.anchor
        return lambda: torch.zeros(n, dtype=torch.bool, device=anchor.device).index_fill(0, anchor, True)

    def where(self, keep: Bool[Tensor, " positive"]) -> "Positives":
        """Return some of the pairs."""
        kept = places_in(keep)
        return Positives(self.anchor[kept], self.candidate[kept], taken(self.similarity, kept))

    def detach(self) -> "Positives":
        """Return the same pairs without gradient."""
        return Positives(self.anchor, self.candidate, self.similarity.detach())

    def scaled(self, factor: float | Tensor) -> "Positives":
        """Return the same pairs with every similarity times ``factor``."""
        return Positives(self.anchor, self.candidate, self.similarity * factor)

    def of_anchor(self, x: Float[Tensor, " anchor"]) -> Float[Tensor, " positive"]:
        """Return what each pair's anchor has."""
        return taken(x, self.anchor)

    def of_candidate(self, x: Float[Tensor, " candidate"]) -> Float[Tensor, " positive"]:
        """Return what each pair's candidate has."""
        return taken(x, self.candidate)

    def reduce(self, values: Float[Tensor, " positive"], how: Reduce, n: int) -> Float[Tensor, " anchor"]:
        """Reduce one value per pair to one for each of n anchors; see ``Pairs.per_anchor``."""
        anchor = self.anchor
        match how:
            case "sum":
                return values.new_zeros(n).index_add(0, anchor, values)
            case "count":
                return values.new_zeros(n).index_add(0, anchor, torch.ones_like(values))
            case "max":
                return self._first_where_equal(values, n, "amax", -torch.inf)
            case "min":
                return self._first_where_equal(values, n, "amin", torch.inf)
            case "logsumexp":
                top = _segment(values.detach(), anchor, n, "amax", -torch.inf)
                some = top > -torch.inf
                total = values.new_zeros(n).index_add(0, anchor, (values - top[anchor]).exp())
                return torch.where(some, total, 1.0).log() + top

    def reduced(self, reductions: Sequence[Reduction | Negated], n: int) -> Sequence[Tensor]:
        """Return reductions of the similarities, for each of n anchors."""
        found = []
        for reduction in reductions:
            s = -self.similarity if isinstance(reduction, Negated) else self.similarity
            of = reduction.of if isinstance(reduction, Negated) else reduction
            threshold = threshold_of(of)
            if isinstance(threshold, Tensor) and threshold.ndim:
                threshold = self.of_anchor(threshold)
            if isinstance(of, LogSumExp):
                found.append(self.reduce(logits(s, of), "logsumexp", n))
            else:
                assert isinstance(of, CURVES), "positives are summed, or a log of their sum is taken"
                found.append(self.reduce(term(s, threshold, of), "sum", n))
        return found

    def count(self, n: int) -> Float[Tensor, " anchor"]:
        """Return how many pairs each of n anchors has."""
        return self.reduce(self.similarity.detach(), "count", n)

    def least(self, values: Float[Tensor, " positive"], n: int) -> Bool[Tensor, " positive"]:
        """Say which pair has its anchor's smallest value, the first among equals."""
        anchor = self.anchor
        lowest = self.reduce(values, "min", n)
        place = torch.arange(len(values), device=values.device)
        hit = torch.where(values == lowest[anchor], place, len(values))
        first = torch.full((n,), len(values), device=values.device).scatter_reduce(0, anchor, hit, "amin")
        return first[anchor] == place

    def _first_where_equal(self, values: Tensor, n: int, how: str, empty: float) -> Tensor:
        """Take each anchor's extreme value; its gradient goes to one pair, the first that attains it."""
        anchor, plain = self.anchor, values.detach()
        extreme = _segment(plain, anchor, n, how, empty)
        if not len(values):
            return values.new_full((n,), empty)
        place = torch.arange(len(values), device=anchor.device)
        hit = torch.where(plain == extreme[anchor], place, len(values))
        first = torch.full((n,), len(values), device=anchor.device).scatter_reduce(0, anchor, hit, "amin")
        some = first < len(values)
        return torch.where(some, taken(values, first.clamp_max(len(values) - 1)), empty)


@dataclass(eq=False)
class Chosen:
    """Explicit negatives: a few columns for each anchor, or one for each positive pair; -1 is none."""

    columns: Int[Tensor, "*row k"]
    per: Literal["anchor", "positive"]

    def where(self, keep: Bool[Tensor, "*positive"] | Int[Tensor, "anchor few"]) -> "Chosen":
        """Return those of some of the positive pairs, as a list or a table of them is narrowed."""
        if self.columns.ndim == 2:
            return Chosen(self.columns[places_in(keep)], self.per)
        if keep.dtype == torch.bool:
            return self
        return Chosen(self.columns.gather(1, keep[..., None]), self.per)


@dataclass(eq=False)
class Against:
    """Positives to be kept by what the negatives are: asked in the loss's own pass over the negatives.

    Attributes:
        reduction: what to ask the negatives, those that the narrowed pairs still have.
        keep: which positive pairs to keep, from the answer.
    """

    reduction: Reduction
    keep: Callable[[Tensor], Bool[Tensor, " positive"]]
    answer: Tensor | None = None


def _segment(values: Tensor, anchor: Tensor, n: int, how: str, empty: float) -> Tensor:
    return values.new_full((n,), empty).scatter_reduce(0, anchor, values, how)
