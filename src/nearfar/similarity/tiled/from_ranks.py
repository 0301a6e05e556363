"""A ``Block`` whose candidates visit in turn, some of them at a time: those of each rank.

Every operation lets all candidates come by, asks a block of the anchors with those that are here, and merges
the answers. In the backward pass they come by once more, and take their gradient with them. What is stored on
ranks comes by as well, after the others, without gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.similarity.block import Block, Build
from nearfar.similarity.interval import Interval
from nearfar.similarity.measure import Measure
from nearfar.similarity.reductions import Reduction, threshold_of
from nearfar.similarity.relation import Relation
from nearfar.similarity.stable import full_precision, normalize
from nearfar.similarity.stored import Stored
from nearfar.similarity.tiled.merge import asked_of_each, merged, with_thresholds

Change = Callable[[Tensor], Tensor]
Operation = Callable[[Block, int, Sequence[Tensor]], tuple[Tensor, ...]]
"""(block with the candidates that are here, whose they are, tensors that may carry gradient) -> answers"""


class Coming(Protocol):
    """Candidates that come by; see ``nearfar.distributed.ring.Ring``."""

    counts: list[int]

    def look(self, visit: Callable[[int, Tensor, Tensor | None], None]) -> None: ...

    def learn(self, visit: Callable[[int, Tensor, Tensor | None], None]) -> None: ...

    def recall(self, visit: Callable[[int, tuple[Tensor, ...]], None]) -> None: ...


class NeedsAll(Exception):
    """What is asked cannot be put together from what some candidates answer at a time."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything about a block with visitors but its anchors.

    Attributes:
        counts: visitors of each rank; empty where only what is stored is compared with.
        measure: what visitors are prepared for.
        relation: of the anchors to all candidates.
        parts: the same to those of each rank, and to those that are stored here, or on each rank.
        changes: what is done to visitors before they are compared, one after the other.
        stored: candidates after the others, without gradient: all of them, or those of this rank.
        travelling: whether each rank has its own of these.
    """

    coming: Coming
    counts: list[int]
    build: Build
    measure: Measure
    relation: Relation
    parts: tuple[Relation, ...]
    changes: tuple[Change, ...]
    stored: Stored | None
    travelling: bool
    starts: list[int]

    def block(self, anchors: Tensor, part: int, rows: Tensor, stored: Stored | None) -> Block:
        """Compare with visitors, made here from the rows that came; or with some that are stored."""
        for change in self.changes:
            rows = change(rows)
        measure: Measure = "dot" if self.measure == "cosine" else self.measure
        return self.build(anchors, rows.to(anchors.dtype), measure, self.parts[part], stored)

    def recall(self, visit: Callable[[int, Stored | None], None]) -> None:
        """See all that is stored, in parts; None where a rank has stored nothing."""
        stored, first = self.stored, len(self.counts)
        if stored is None:
            return
        if not self.travelling:
            visit(first, stored)
            return

        def see(owner: int, some: tuple[Tensor, ...]) -> None:
            rows, inverse = some
            visit(first + owner, replace(stored, rows=rows, inverse=inverse) if len(rows) else None)

        self.coming.recall(see)


class VisitedBlock:
    """See ``Block``. Anchors and visitors are prepared (of unit length for the cosine) before they meet.

    Args:
        counts: visitors of each rank; empty to compare with what is stored alone.
        stored: further candidates; ``stored_counts`` says how many each rank has, where each has its own.
    """

    def __init__(
        self,
        anchors: Float[Tensor, "anchor dim"],
        coming: Coming,
        measure: Measure,
        relation: Relation,
        build: Build,
        view: Change,
        stored: Stored | None = None,
        counts: Sequence[int] | None = None,
        stored_counts: Sequence[int] | None = None,
    ) -> None:
        unit = measure == "cosine"
        prepare: Change = (lambda rows: normalize(full_precision(rows))) if unit else full_precision
        counts = list(coming.counts if counts is None else counts)
        further = [] if stored is None else [len(stored)] if stored_counts is None else stored_counts
        lengths = [*counts, *further]
        ends = torch.tensor(lengths).cumsum(0).tolist()
        starts = [end - n for end, n in zip(ends, lengths, strict=True)]
        parts = tuple(relation.among(slice(end - n, end)) for end, n in zip(ends, lengths, strict=True))
        if stored is not None and unit:
            stored = replace(stored, unit=True)
        self.anchors, self.measure, self.relation = prepare(anchors), measure, relation
        travelling = stored_counts is not None
        self.comparison = Comparison(
            coming, counts, build, measure, relation, parts, (view, prepare), stored, travelling, starts
        )

    def __len__(self) -> int:
        return len(self.anchors)

    @property
    def candidates(self) -> Tensor:
        raise NeedsAll

    @property
    def parts(self) -> tuple[Tensor, Stored | None]:
        raise NeedsAll

    def positives(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        return self._of_pairs(anchor, candidate, lambda block, i, j: block.positives(i, j))

    def at(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        return self._of_pairs(anchor, candidate, lambda block, i, j: block.at(i, j))

    def stream(
        self, interval: Interval, owners: Tensor, reductions: Sequence[Reduction]
    ) -> tuple[Tensor, ...]:
        each = [asked_of_each(reduction) for reduction in reductions]
        if any(
            one is None or reduction.per == "candidate"
            for one, reduction in zip(each, reductions, strict=True)
        ):
            raise NeedsAll
        asked = [reduction for some in each for reduction in some or ()]
        thresholds = [t for t in map(threshold_of, asked) if isinstance(t, Tensor)]
        starts = self.comparison.starts

        def ask(block: Block, part: int, thresholds: Sequence[Tensor]) -> tuple[Tensor, ...]:
            results = block.stream(interval, owners, with_thresholds(asked, thresholds))
            return tuple(_counted_from(x, starts[part]) for x in results)

        answers = self._ask(ask, thresholds)
        columns = iter(zip(*answers, strict=True))
        found = []
        for reduction, some in zip(reductions, each, strict=True):
            parts = [torch.stack(next(columns)) for _ in some or ()]
            found.append(merged(reduction, parts, self._nearness))
        return tuple(found)

    def map(self, change: Change, candidates: Change | None = None) -> "VisitedBlock":
        probe = self.anchors.detach()[:1]
        if candidates is None and change is not Tensor.detach:
            with torch.enable_grad():
                if change(probe).requires_grad:
                    raise NeedsAll
        block = object.__new__(VisitedBlock)
        block.anchors, block.measure, block.relation = change(self.anchors), self.measure, self.relation
        change, stored = candidates or change, self.comparison.stored
        block.comparison = replace(
            self.comparison,
            changes=(*self.comparison.changes, change),
            stored=None if stored is None else stored.changed(change),
        )
        return block

    def _nearness(self, candidate: Int[Tensor, "row k"]) -> Float[Tensor, "row k"]:
        """Similarity of each anchor with the candidates named for it; -inf for -1."""
        row = torch.arange(len(candidate), device=candidate.device)[:, None].expand_as(candidate)
        s = self.at(row.flatten(), candidate.clamp_min(0).flatten()).detach().view(candidate.shape)
        return s.masked_fill(candidate < 0, -torch.inf)

    def _of_pairs(
        self, anchor: Tensor, candidate: Tensor, one: Callable[[Block, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Similarity of listed pairs, each found where its candidate comes by."""
        comparison = self.comparison
        edges = torch.tensor(comparison.starts, device=candidate.device)
        owner = torch.searchsorted(edges, candidate, right=True) - 1
        places = [torch.nonzero(owner == k).squeeze(1) for k in range(len(comparison.parts))]
        starts = comparison.starts

        def ask(block: Block, part: int, _: Sequence[Tensor]) -> tuple[Tensor, ...]:
            place = places[part]
            return (one(block, anchor[place], candidate[place] - starts[part]),)

        found = [answer[0] for answer in self._ask(ask, [])]
        return torch.cat(found)[torch.argsort(torch.cat(places))]

    def _ask(self, operation: Operation, tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Ask all candidates as they come by; return the answers of each part."""
        flat = _Visits.apply(self.anchors, self.comparison, operation, *tensors)  # pyrefly: ignore
        size = len(flat) // len(self.comparison.parts)
        return [tuple(flat[k : k + size]) for k in range(0, len(flat), size)]


class _Visits(torch.autograd.Function):
    """One operation on all candidates, as they come by."""

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, comparison: Comparison, operation: Operation, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(anchors, *tensors)
        ctx.comparison, ctx.operation = comparison, operation
        found: dict[int, tuple[Tensor, ...]] = {}

        def visit(part: int, rows: Tensor, _: Tensor | None = None, stored: Stored | None = None) -> None:
            found[part] = operation(comparison.block(anchors, part, rows, stored), part, tensors)

        if comparison.counts:
            comparison.coming.look(visit)
        comparison.recall(lambda part, stored: visit(part, anchors[:0], stored=stored))
        flat = [x.detach() for part in range(len(comparison.parts)) for x in found[part]]
        ctx.mark_non_differentiable(*(x for x in flat if not x.is_floating_point()))
        ctx.set_materialize_grads(False)
        return tuple(flat)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        comparison, (anchors, *tensors) = ctx.comparison, ctx.saved_tensors
        size = len(grad_outputs) // len(comparison.parts)
        inputs = [x.detach().requires_grad_() for x in (anchors, *tensors)]
        sums = [torch.zeros_like(x) for x in inputs]

        def visit(
            part: int, rows: Tensor, gradient: Tensor | None = None, stored: Stored | None = None
        ) -> None:
            upstream = grad_outputs[part * size : (part + 1) * size]
            visitor = rows.detach().requires_grad_()
            with torch.enable_grad():
                block = comparison.block(inputs[0], part, visitor, stored)
                answers = ctx.operation(block, part, inputs[1:])
            taught = [
                (x, g) for x, g in zip(answers, upstream, strict=True) if g is not None and x.requires_grad
            ]
            if not taught:
                return
            leaves = [*inputs, visitor]
            slopes = torch.autograd.grad(
                [x for x, _ in taught], leaves, [g for _, g in taught], allow_unused=True
            )
            *own, travelling = slopes
            for total, slope in zip(sums, own, strict=True):
                if slope is not None:
                    total.add_(slope)
            if gradient is not None and travelling is not None:
                gradient += travelling

        if comparison.counts:
            comparison.coming.learn(visit)
        comparison.recall(lambda part, stored: visit(part, anchors[:0], stored=stored))
        return sums[0], None, None, *sums[1:]


def _counted_from(x: Tensor, start: int) -> Tensor:
    """Candidates named by their place among the visitors, by their place among all; -1 stays."""
    return x if x.is_floating_point() else torch.where(x < 0, x, x + start)
