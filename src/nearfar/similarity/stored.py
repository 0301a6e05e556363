"""Candidates without gradient, as a memory keeps them: read a tile at a time, never copied whole."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.similarity.stable import taken

CHUNK = 2**13
"""Rows that are read at a time where all of them are looked at."""

Index = slice | Tensor
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Stored:
    """Rows in any precision and on any device, which become vectors to compare when they are read.

    Attributes:
        rows: what is stored; it must stay as it is until the gradient is computed.
        inverse: 1 / |row|, 0 for a zero row.
        unit: read rows of unit length.
        changes: what is done to rows when they are read, one after the other; each works row by row.
        like: a tensor of the type and on the device that rows are read in.
    """

    rows: Float[Tensor, "m dim"]
    inverse: Float[Tensor, " m"]
    like: Tensor
    unit: bool = False
    changes: tuple[Change, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Index) -> Float[Tensor, "some dim"]:
        index = index if isinstance(index, slice) else index.to(self.rows.device)
        some = self.rows[index].to(self.like)
        if self.unit:
            some = some * self.inverse[index, None].to(self.like)
        for change in self.changes:
            some = change(some)
        return some

    def changed(self, change: Change) -> "Stored":
        """Return the same rows, changed when they are read."""
        return replace(self, changes=(*self.changes, change))

    def copied(self) -> "Stored":
        """Return rows that stay as they are, whatever is stored later."""
        return replace(self, rows=self.rows.clone(), inverse=self.inverse.clone())

    def longest(self) -> float:
        """Return the largest length of a row."""
        if not len(self):
            return 0.0
        if self.changes:
            return max(float(longest(self[a : a + CHUNK])) for a in range(0, len(self), CHUNK))
        least = float(self.inverse.masked_fill(self.inverse == 0, torch.inf).min())
        return 0.0 if least == torch.inf else 1.0 if self.unit else 1 / least


class Columns:
    """The candidates one after the other: those that may have gradient, then those that are stored."""

    def __init__(self, given: Float[Tensor, "k dim"], stored: Stored) -> None:
        self.given, self.stored = given, stored

    def __len__(self) -> int:
        return len(self.given) + len(self.stored)

    def __getitem__(self, index: Index) -> Float[Tensor, "some dim"]:
        """Return some rows; differentiable in those that were given."""
        k = len(self.given)
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            if stop <= k:
                return self.given[start:stop]
            some = self.stored[max(0, start - k) : stop - k]
            return some if start >= k else torch.cat([self.given[start:], some])
        if not len(self.stored):
            return taken(self.given, index)
        there = index >= k
        some = self.stored[(index - k).clamp_min(0)]
        if not k:
            return some
        return torch.where(there[:, None], some, taken(self.given, index.clamp_max(k - 1)))


def columns(given: Tensor, stored: Stored | None) -> Tensor | Columns:
    """Return candidates to be read by places, of one part or of two."""
    return given if stored is None else Columns(given, stored)


def whole(given: Tensor, stored: Stored | None) -> Float[Tensor, "candidate dim"]:
    """Return all candidates as one tensor; what is stored is copied."""
    return given if stored is None else torch.cat([given, stored[:]])


def longest(x: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """Return the largest length of a row; 0 for none."""
    return torch.linalg.vector_norm(x, dim=1).max() if len(x) else x.new_zeros(())
