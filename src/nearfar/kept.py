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
from nearfar.similarity.dense.closed import Asked, reduced
from nearfar.similarity.dense.matrix import DenseBlock
from nearfar.similarity.dense.reduce import logits, term
from nearfar.similarity.reductions import CURVES, LogSumExp, Negated, threshold_of
from nearfar.similarity.stable import at_once, places_in, taken

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


class PositiveTable(Positives):
    """The positive pairs in a table with a row for each anchor, so that no shape depends on the labels.

    Where there is no pair the similarity is 0, and no gradient comes from there.

    Attributes:
        absent: where there is no pair.
        similarity: larger is nearer; differentiable.
        columns: the candidate of each entry; None where the columns are the candidates in order.
    """

    absent: Bool[Tensor, "anchor k"]
    columns: Int[Tensor, "anchor k"] | None

    def __init__(
        self,
        absent: Bool[Tensor, "anchor k"],
        similarities: Float[Tensor, "anchor k"] | DenseBlock,
        columns: Int[Tensor, "anchor k"] | None = None,
    ) -> None:
        self.absent, self.columns = absent, columns
        self._of = similarities

    @property
    def _all(self) -> Float[Tensor, "anchor k"]:
        of = self._of
        return of if isinstance(of, Tensor) else of.matrix

    @property
    def plain(self) -> Float[Tensor, "anchor k"]:
        """Their similarities without gradient, and any number where there is no pair."""
        of = self._of
        return of.detach() if isinstance(of, Tensor) else of.plain

    @once
    def similarity(self) -> Float[Tensor, "anchor k"]:  # pyrefly: ignore[bad-override]
        """Similarity of each pair."""
        return self._all.masked_fill(self.absent, 0.0)

    @once
    def anchor(self) -> Int[Tensor, "anchor k"]:  # pyrefly: ignore[bad-override]
        """Row of each entry's anchor."""
        shape = self.absent.shape
        return torch.arange(shape[0], device=self.absent.device)[:, None].expand(shape)

    @once
    def candidate(self) -> Int[Tensor, "anchor k"]:  # pyrefly: ignore[bad-override]
        """Row of each entry's candidate."""
        if self.columns is not None:
            return self.columns
        shape = self.absent.shape
        return torch.arange(shape[1], device=self.absent.device).expand(shape)

    @once
    def there(self) -> Bool[Tensor, "anchor k"]:
        """Where there is a pair."""
        return ~self.absent

    @once
    def listed(self) -> Int[Tensor, " positive"]:
        """The places of the pairs in the table read row by row; a device is waited for to count them."""
        if torch.compiler.is_compiling():
            return places_in(self.there.flatten())
        return torch.from_numpy(self._places).to(self.absent.device)

    @once
    def _places(self) -> Int[np.ndarray, " positive"]:
        """The same, on the host."""
        return np.flatnonzero(~(self.absent if at_once(self.absent) else self.absent.cpu()).numpy())

    @property
    def held(self) -> Int[Tensor, " place"]:
        """The same, and of few columns all places where a device would have to be waited for."""
        if self.columns is None or at_once(self.absent):
            return self.listed
        return torch.arange(self.absent.numel(), device=self.absent.device)

    def short(self) -> "PositiveTable":
        """Return the same pairs in as few columns as an anchor has pairs; a device is waited for, once."""
        if self.columns is not None or torch.compiler.is_compiling():
            return self
        (n, width), device = self.absent.shape, self.absent.device
        count = np.bincount(self._places // max(1, width), minlength=n)
        there = np.arange(max(1, count.max(initial=0))) < count[:, None]
        columns = np.zeros(there.shape, dtype=np.int64)
        columns[there] = self._places % max(1, width)
        placed = torch.from_numpy(columns).to(device)
        return PositiveTable(torch.from_numpy(~there).to(device), self._all.gather(1, placed), placed)

    @property
    def some(self) -> bool | Tensor:
        """Whether there is a pair; a tensor where a device would have to be waited for."""
        if not at_once(self.absent):
            return self.there.any()
        return not np.logical_and.reduce(self.absent.numpy().ravel())

    def owners(self, n: int) -> Callable[[], Bool[Tensor, " anchor"]]:  # noqa: ARG002, as of a list
        """Return what says, when it is asked, which anchors have a pair; it holds no similarities."""
        there = self.there
        return lambda: there.any(1)

    def as_list(self) -> Positives:
        """Return the pairs one by one."""
        k = max(1, self.absent.shape[1])
        columns = self.listed % k if self.columns is None else self.columns.flatten()[self.listed]
        found = Positives(self.listed // k, columns, taken(self._all.flatten(), self.listed))
        if self.columns is None and not torch.compiler.is_compiling():
            found.__dict__["on_host"] = (self._places // k, self._places % k)
        return found

    def where(self, keep: Bool[Tensor, "anchor k"] | Int[Tensor, "anchor few"]) -> "PositiveTable":
        """Return some of the pairs: those said, or those at some places of each row."""
        if keep.dtype == torch.bool:
            return PositiveTable(self.absent | ~keep, self._of, self.columns)
        columns = keep if self.columns is None else self.columns.gather(1, keep)
        return PositiveTable(self.absent.gather(1, keep), self._all.gather(1, keep), columns)

    def detach(self) -> "PositiveTable":
        """Return the same pairs without gradient."""
        return PositiveTable(self.absent, self.plain, self.columns)

    def scaled(self, factor: float | Tensor) -> "PositiveTable":
        """Return the same pairs with every similarity times ``factor``."""
        return PositiveTable(self.absent, self._all * factor, self.columns)

    def of_anchor(self, x: Float[Tensor, " anchor"]) -> Float[Tensor, "anchor k"]:
        """Return what each pair's anchor has."""
        return x[:, None].masked_fill(self.absent, 0)

    def of_candidate(self, x: Float[Tensor, " candidate"]) -> Float[Tensor, "anchor k"]:
        """Return what each pair's candidate has."""
        each = x[None, :] if self.columns is None else taken(x, self.columns)
        return each.masked_fill(self.absent, 0)

    def reduce(self, values: Float[Tensor, "anchor k"], how: Reduce, n: int) -> Float[Tensor, " anchor"]:
        """Reduce one value per pair to one for each anchor; see ``Pairs.per_anchor``."""
        if not values.shape[1]:
            return values.new_full(
                (n,), {"max": -torch.inf, "logsumexp": -torch.inf, "min": torch.inf}.get(how, 0.0)
            )
        match how:
            case "sum":
                return values.masked_fill(self.absent, 0.0).sum(1)
            case "count":
                return self.there.sum(1, dtype=values.dtype)
            case "max":
                return values.masked_fill(self.absent, -torch.inf).max(1).values
            case "min":
                return values.masked_fill(self.absent, torch.inf).min(1).values
            case "logsumexp":
                return reduced(values, [Asked(LogSumExp(scale=1.0), self.absent)])[0]

    def reduced(self, reductions: Sequence[Reduction | Negated], n: int) -> Sequence[Tensor]:  # noqa: ARG002
        """Return reductions of the similarities, for each anchor."""
        of, asked = self._of, self.asked(reductions)
        return reduced(of, asked) if isinstance(of, Tensor) else of.reduced(asked)

    def asked(self, reductions: Sequence[Reduction | Negated], bounded: bool = False) -> list[Asked]:
        """Return what is asked of a row of similarities, which are cosines where they are ``bounded``."""
        absent = self.absent
        return [
            Asked(r.of, absent, True) if isinstance(r, Negated) else Asked(r, absent, False, bounded)
            for r in reductions
        ]

    def count(self, n: int) -> Float[Tensor, " anchor"]:  # noqa: ARG002, as of a list
        """Return how many pairs each anchor has."""
        return self.there.sum(1, dtype=self.plain.dtype)

    def least(self, values: Float[Tensor, "anchor k"], n: int) -> Int[Tensor, "anchor 1"]:  # noqa: ARG002, as of a list
        """Say at which place of each row the smallest value is, the first among equals."""
        return values.masked_fill(self.absent, torch.inf).argmin(1, keepdim=True)

    def spread(self, values: Tensor, empty: float) -> Tensor:
        """Return a table with the values of the pairs that are ``held``, and ``empty`` elsewhere."""
        whole = values.new_full((self.absent.numel(), *values.shape[1:]), empty)
        return whole.index_copy(0, self.held, values).view(*self.absent.shape, *values.shape[1:])


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
