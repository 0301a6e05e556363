"""Positive pairs in a table with a row for each anchor: no shape depends on the labels of a batch."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nearfar.kept import Positives, Reduce
from nearfar.once import once
from nearfar.similarity import Reduction
from nearfar.similarity.dense.closed import Asked, reduced
from nearfar.similarity.dense.matrix import DenseBlock
from nearfar.similarity.reductions import LogSumExp, Negated
from nearfar.similarity.stable import at_once, places_in, taken


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
