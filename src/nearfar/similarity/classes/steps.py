"""How each reduction over the other classes takes in a tile, and what weight it gives each similarity."""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.similarity.reductions import LogSumExp, Per, Sum
from nearfar.similarity.stable import logsumexp
from nearfar.similarity.tiled.tile import scratch

LOG2_E = math.log2(math.e)
SPAN = 192.0
"""Powers of two that exponents may span for one shift to serve all: terms, and sums over as many as there may
be, are normal numbers."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ModulatedLogSumExp:
    """log Σ_{j∈N_i} e^z with z = a s_ij, or z = a s_ij (s_ij + t) where s_ij > τ_i.

    ``above`` are the τ_i and ``offset`` is t, without gradient.
    """

    scale: float
    above: Float[Tensor, " anchor"]
    offset: Float[Tensor, ""]
    per: ClassVar[Per] = "anchor"


def modulated(s: Tensor, keep: Tensor, reduction: ModulatedLogSumExp) -> Tensor:
    """The same of a matrix that is in memory, with plain autograd."""
    hard = s > reduction.above[:, None].to(s.dtype)
    return logsumexp(reduction.scale * s * torch.where(hard, s + reduction.offset, 1.0), keep)


Places = tuple[Tensor, Tensor]
"""(anchor, column of the tile) of the pairs that are no negatives."""


class Ranks(Protocol):
    """Ranks that share the classes out; see ``nearfar.similarity.classes.ranks.Apart``."""

    def logsumexp(self, values: Tensor) -> Tensor: ...

    def total(self, values: Tensor) -> Tensor: ...


class ClassStep(Protocol):
    """One reduction at work. ``part`` numbers the stretch of classes that a thread runs through alone."""

    def visit(self, s: Tensor, own: Places, classes: slice, part: int) -> None:
        """Take in similarities [anchor, class]."""
        ...

    def result(self) -> Tensor: ...

    def receive(self, gradient: Tensor) -> None:
        """Take the gradient of the result, before ``weigh``."""
        ...

    def weigh(self, s: Tensor, classes: slice, out: Tensor) -> Tensor:
        """Write dL/ds to ``out``; the places of own classes may hold anything."""
        ...


class ExponentialStep:
    """log Σ e^z over the other classes of each anchor, in powers of two."""

    def __init__(
        self,
        reduction: LogSumExp | ModulatedLogSumExp,
        bound: float,
        parts: int,
        like: Tensor,
        ranks: Ranks | None,
    ) -> None:
        self.reduction, self.ranks = reduction, ranks
        self.slope = reduction.scale * LOG2_E
        self.shift = reduction.shift if isinstance(reduction, LogSumExp) else 0.0
        plain = isinstance(reduction, LogSumExp)
        self.fixed = plain and 2 * abs(self.slope) * bound <= SPAN
        top = -self.slope * self.shift if self.fixed else -torch.inf
        self.moved = 0.0 if self.fixed else -self.slope * self.shift
        self.top = like.new_full((parts, len(like)), top)
        self.sums = like.new_zeros(parts, len(like))
        self.hard = None if plain else (reduction.offset, reduction.above.to(like.dtype)[:, None])

    def visit(self, s: Tensor, own: Places, classes: slice, part: int) -> None:  # noqa: ARG002
        z = _buffer("z", s)
        if self.fixed:
            torch.mul(s, self.slope, out=z)
            z[own] = -torch.inf
            self.sums[part] += z.exp2_().sum(1)
            return
        self._exponents(s, z)
        z[own] = -torch.inf
        old = self.top[part]
        new = torch.maximum(old, z.amax(1))
        finite = new.masked_fill(new == -torch.inf, 0.0)
        self.sums[part] = self.sums[part] * torch.exp2(old - finite) + z.sub_(finite[:, None]).exp2_().sum(1)
        self.top[part] = new

    def result(self) -> Tensor:
        # In float64, since the summands may be large and cancel.
        each = self.sums.double().log2() + self.top.double().masked_fill(self.sums == 0, 0.0)
        total = torch.logsumexp(each / LOG2_E, 0)
        self.total = total if self.ranks is None else self.ranks.logsumexp(total)
        return self.total.to(self.sums.dtype)

    def receive(self, gradient: Tensor) -> None:
        empty = self.total == -torch.inf
        self.weight = (gradient * self.reduction.scale).masked_fill(empty, 0.0)[:, None]
        start = -self.total.masked_fill(empty, 0.0) * LOG2_E - self.slope * self.shift - self.moved
        # What is lost where it is rounded is made good: else the shares of the classes would not come to 1.
        self.start = start.to(gradient.dtype)[:, None]
        # Of exponents so large that nothing is left of their digits, that would be any number.
        lost = (start[:, None] - self.start).clamp(-1.0, 1.0)
        self.weight = self.weight * torch.exp2(lost).to(gradient.dtype)

    def weigh(self, s: Tensor, classes: slice, out: Tensor) -> Tensor:  # noqa: ARG002
        # In two steps, rounded as in the first pass.
        e = self._exponents(s, out).add_(self.start)
        if not self.fixed:
            e.clamp_(max=0.0)  # a share is at most 1, also where exponents are too large to be subtracted
        e.exp2_().mul_(self.weight)
        if self.hard is not None:
            offset, above = self.hard
            slope = torch.add(s, s, out=_buffer("slope", s)).add_(offset)
            e.mul_(slope.masked_fill_(s <= above, 1.0))
        return e

    def _exponents(self, s: Tensor, out: Tensor) -> Tensor:
        """z in powers of two, less the shift where ``top`` does not begin with it."""
        if self.hard is None:
            return torch.add(s.new_full((), self.moved), s, alpha=self.slope, out=out)
        offset, above = self.hard
        torch.add(s, offset, out=out).masked_fill_(s <= above, 1.0)
        return out.mul_(s).mul_(self.slope)


class PerClassStep:
    """log Σ e^z over the anchors of other classes, for each class."""

    def __init__(self, reduction: LogSumExp, classes: int, like: Tensor) -> None:
        self.reduction, self.slope = reduction, reduction.scale * LOG2_E
        self.total = like.new_empty(classes)

    def visit(self, s: Tensor, own: Places, classes: slice, part: int) -> None:  # noqa: ARG002
        if not len(s):
            self.total[classes] = -torch.inf
            return
        z = torch.mul(s, self.slope, out=_buffer("z", s))
        z[own] = -torch.inf
        top = z.amax(0)
        top.masked_fill_(top == -torch.inf, 0.0)
        self.total[classes] = z.sub_(top).exp2_().sum(0).log2_().add_(top)

    def result(self) -> Tensor:
        return self.total / LOG2_E - self.reduction.scale * self.reduction.shift

    def receive(self, gradient: Tensor) -> None:
        self.weight = gradient * self.reduction.scale

    def weigh(self, s: Tensor, classes: slice, out: Tensor) -> Tensor:
        total = self.total[classes]
        total = total.masked_fill(total == -torch.inf, 0.0)
        torch.mul(s, self.slope, out=out).sub_(total).exp2_()
        return out.mul_(self.weight[classes].masked_fill(self.total[classes] == -torch.inf, 0.0))


class SumStep:
    """Σ s over the other classes of each anchor."""

    def __init__(self, parts: int, like: Tensor, ranks: Ranks | None) -> None:
        self.ranks = ranks
        self.sums = like.new_zeros(parts, len(like))

    def visit(self, s: Tensor, own: Places, classes: slice, part: int) -> None:  # noqa: ARG002
        self.sums[part] += s.sum(1)
        self.sums[part, own[0]] -= s[own]

    def result(self) -> Tensor:
        total = self.sums.sum(0)
        return total if self.ranks is None else self.ranks.total(total.double()).to(total.dtype)

    def receive(self, gradient: Tensor) -> None:
        self.weight = gradient[:, None]

    def weigh(self, s: Tensor, classes: slice, out: Tensor) -> Tensor:  # noqa: ARG002
        return out.copy_(self.weight.expand_as(out))


def _buffer(name: str, like: Tensor) -> Tensor:
    return scratch.get(name, (like.shape[0], like.shape[1]), like.dtype, like.device)


ClassReduction = LogSumExp | ModulatedLogSumExp | Sum


def step_of(
    reduction: ClassReduction,
    bound: float,
    classes: int,
    parts: int,
    like: Float[Tensor, " anchor"],
    ranks: Ranks | None = None,
) -> ClassStep:
    """Return a reduction at work for ``classes`` classes in ``parts`` stretches.

    Args:
        ranks: those that have the other classes, if these are not all.
    """
    match reduction:
        case LogSumExp(per="candidate"):
            return PerClassStep(reduction, classes, like)
        case LogSumExp() | ModulatedLogSumExp():
            return ExponentialStep(reduction, bound, parts, like, ranks)
        case Sum():
            return SumStep(parts, like, ranks)


def streams(reduction: object) -> bool:
    """Whether there is a step for a reduction."""
    match reduction:
        case LogSumExp(floor=None, per="anchor" | "candidate") | ModulatedLogSumExp() | Sum(per="anchor"):
            return True
        case _:
            return False
