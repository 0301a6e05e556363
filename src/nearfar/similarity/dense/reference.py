"""The definitions, in float64, one row at a time: for reading, and what other backends must equal."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nearfar.similarity.interval import Interval
from nearfar.similarity.measure import Measure, between
from nearfar.similarity.reductions import (
    ArgMax,
    Count,
    HingeSum,
    LogSumExp,
    Max,
    Min,
    OrderStatistic,
    Reduction,
    Sample,
    SigmoidSquareSum,
    SigmoidSum,
    SoftMean,
    SoftplusSum,
    SquaredHingeSum,
    Sum,
    TopK,
    threshold_of,
)
from nearfar.similarity.relation import Relation
from nearfar.similarity.stable import normalize
from nearfar.similarity.stored import Stored, whole


class ReferenceBlock:
    """See ``Block``."""

    def __init__(
        self,
        anchors: Tensor,
        candidates: Tensor,
        measure: Measure,
        relation: Relation,
        stored: Stored | None = None,
    ) -> None:
        candidates = whole(candidates, stored)
        same = candidates is anchors
        self.anchors = _prepare(anchors, measure)
        self.candidates = self.anchors if same else _prepare(candidates, measure)
        self.measure: Measure = measure
        self.relation = relation

    def __len__(self) -> int:
        return len(self.anchors)

    @property
    def parts(self) -> tuple[Tensor, None]:
        return self.candidates, None

    def positives(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        return self.at(anchor, candidate)

    def at(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        if not len(self.candidates):
            return 0 * self.anchors[anchor].sum(1)
        pairs = zip(anchor.tolist(), candidate.tolist(), strict=True)
        values = [
            between(self.anchors[i : i + 1], self.candidates[j : j + 1], self.measure)[0] for i, j in pairs
        ]
        return torch.cat([self.anchors[:0].sum(1), *values])

    def stream(
        self, interval: Interval, owners: Tensor, reductions: Sequence[Reduction]
    ) -> tuple[Tensor, ...]:
        return tuple(self._stream_one(interval, owners, reduction) for reduction in reductions)

    def map(
        self, change: Callable[[Tensor], Tensor], candidates: Callable[[Tensor], Tensor] | None = None
    ) -> "ReferenceBlock":
        block = object.__new__(ReferenceBlock)
        block.anchors = change(self.anchors)
        same = self.candidates is self.anchors and candidates is None
        block.candidates = block.anchors if same else (candidates or change)(self.candidates)
        block.measure, block.relation = self.measure, self.relation
        return block

    def _stream_one(self, interval: Interval, owners: Tensor, reduction: Reduction) -> Tensor:
        rows = {
            "anchor": range(len(self.anchors)),
            "positive": owners.tolist(),
            "candidate": range(len(self.candidates)),
        }[reduction.per]
        if isinstance(reduction, OrderStatistic) and reduction.over == "batch":
            every = [self._negatives(i, interval) for i in range(len(self.anchors))]
            s = torch.cat([self.anchors[:0].sum(1), *(s for s, _ in every)])
            value = _define(reduction, s, owners, 0.0, 0)
            return value.expand(len(rows))
        threshold = threshold_of(reduction)
        values = []
        for k, i in enumerate(rows):
            side = self._anchors_of if reduction.per == "candidate" else self._negatives
            s, others = side(i, interval)
            t = threshold[k] if isinstance(threshold, Tensor) and threshold.ndim else threshold
            values.append(_define(reduction, s, others, t, k)[None])
        if values:
            return torch.cat(values)
        match reduction:
            case TopK(k=k):
                return owners.new_empty(0, k)
            case Sample(uniform=uniform):
                return owners.new_empty(0, uniform.shape[1])
            case ArgMax():
                return owners.new_empty(0)
            case _:
                return self.anchors[:0].sum(1)

    def _negatives(self, i: int, interval: Interval) -> tuple[Tensor, Tensor]:
        """Similarities of one anchor's negatives, and which candidates they are."""
        row = torch.tensor([i], device=self.anchors.device)
        s = between(self.anchors[row], self.candidates, self.measure)
        keep = (self.relation.negative(row) & interval.holds(s, row))[0]
        return s[0][keep], torch.nonzero(keep).squeeze(1)

    def _anchors_of(self, j: int, interval: Interval) -> tuple[Tensor, Tensor]:
        """Similarities of the anchors that one candidate is a negative of, and which anchors they are."""
        rows = torch.arange(len(self.anchors), device=self.anchors.device)
        s = between(self.anchors, self.candidates[j : j + 1], self.measure)
        keep = self.relation.negative(rows)[:, j] & interval.holds(s, rows)[:, 0]
        return s[:, 0][keep], torch.nonzero(keep).squeeze(1)


def _define(  # noqa: PLR0912, one case a reduction
    reduction: Reduction, s: Tensor, columns: Tensor, t: Tensor | float, row: int
) -> Tensor:
    """Apply the formula in ``nearfar.similarity.reductions`` to one row's negatives ``s``."""
    match reduction:
        case LogSumExp(scale=scale, shift=shift, floor=floor, frozen=frozen):
            z = scale * (s - shift)
            if floor is not None:
                above = (s - floor).relu()
                z = z * (above.detach() if frozen else above)
            return torch.logsumexp(z, 0) if len(s) else s.sum() - torch.inf
        case SoftMean(scale=scale, frozen=frozen):
            p = torch.softmax(scale * s, 0)
            return ((p.detach() if frozen else p) * s).sum()
        case Max():
            s = s[s < t]
            return s[s.argmax()] if len(s) else s.sum() - torch.inf
        case ArgMax():
            under = s < t
            return columns[under][s[under].argmax()] if under.any() else columns.new_tensor(-1)
        case TopK(k=k):
            nearest = columns[s.detach().argsort(descending=True, stable=True)[:k]]
            return torch.cat([nearest, nearest.new_full((k - len(nearest),), -1)])
        case Min():
            return s[s.argmin()] if len(s) else s.sum() + torch.inf
        case Sum():
            return s.sum()
        case Count():
            return (s > t).sum().to(s.dtype)
        case HingeSum():
            return (s - t).relu().sum()
        case SquaredHingeSum():
            return (s - t).relu().square().sum()
        case SoftplusSum(scale=scale):
            return torch.logaddexp(scale * (s - t), torch.zeros_like(s)).sum() / scale
        case SigmoidSum(scale=scale, cap=cap):
            z = s - t
            return torch.sigmoid(scale * z.masked_fill(z > cap, cap)).sum()
        case SigmoidSquareSum(scale=scale):
            return torch.sigmoid(scale * (s - t)).square().sum()
        case OrderStatistic(rank=rank):
            r = int(rank[row]) if isinstance(rank, Tensor) and rank.ndim else int(rank)
            beyond = torch.inf if r < 1 else -torch.inf
            return (
                s.detach().sort(descending=True).values[r - 1]
                if 1 <= r <= len(s)
                else s.detach().new_tensor(beyond)
            )
        case Sample(log_weight=log_weight, uniform=uniform):
            if not len(s):
                return torch.full_like(uniform[row], -1, dtype=torch.long)
            z = log_weight(s.detach())
            weight = (z - z.max()).exp() if z.max() > -torch.inf else torch.ones_like(z)
            mass = weight.cumsum(0)
            target = uniform[row].double() * mass[-1]
            found = [int((mass <= u).sum()) for u in target.tolist()]
            return columns[torch.tensor(found, device=s.device).clamp_max(len(s) - 1)]


def _prepare(x: Tensor, measure: Measure) -> Tensor:
    return normalize(x.double()) if measure == "cosine" else x.double()
