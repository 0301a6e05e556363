"""The definitions, in float64, one anchor at a time: for reading, and what other backends must equal."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nearfar.similarity.block import Block
from nearfar.similarity.interval import Interval
from nearfar.similarity.reductions import (
    ArgMax,
    Count,
    HingeSum,
    LogSumExp,
    Max,
    Min,
    Reduction,
    SoftplusSum,
    SquaredHingeSum,
    Sum,
    threshold_of,
)


def prepare(vectors: Tensor) -> Tensor:
    """Compute in float64, whatever the precision of the input."""
    return vectors.double()


def positives(block: Block, anchor: Tensor, candidate: Tensor) -> Tensor:
    """Similarity of each positive pair."""
    pairs = zip(anchor.tolist(), candidate.tolist(), strict=True)
    values = [block.between(block.anchors[i : i + 1], block.candidates[j : j + 1])[0] for i, j in pairs]
    return torch.cat([block.anchors[:0].sum(1), *values])


def stream(
    block: Block, interval: Interval, owners: Tensor, reductions: Sequence[Reduction]
) -> tuple[Tensor, ...]:
    """Reduce each anchor's negatives (see ``Backend.stream``)."""
    results = []
    for reduction in reductions:
        rows = range(len(block.anchors)) if reduction.per == "anchor" else owners.tolist()
        threshold = threshold_of(reduction)
        values = []
        for k, i in enumerate(rows):
            row = torch.tensor([i], device=owners.device)
            s = block.between(block.anchors[row], block.candidates)
            keep = (block.relation.negative(row) & interval.holds(s, row))[0]
            t = threshold[k] if isinstance(threshold, Tensor) and threshold.ndim else threshold
            values.append(_define(reduction, s[0][keep], torch.nonzero(keep).squeeze(1), t).view(1))
        nothing = owners[:0] if isinstance(reduction, ArgMax) else block.anchors[:0].sum(1)
        results.append(torch.cat([nothing, *values]))
    return tuple(results)


def _define(reduction: Reduction, s: Tensor, columns: Tensor, t: Tensor | float) -> Tensor:
    """Apply the formula in ``nearfar.similarity.reductions`` to one anchor's negatives ``s``."""
    match reduction:
        case LogSumExp(scale=scale, shift=shift):
            return torch.logsumexp(scale * (s - shift), 0) if len(s) else s.sum() - torch.inf
        case Max():
            s = s[s < t]
            return s[s.argmax()] if len(s) else s.sum() - torch.inf
        case ArgMax():
            under = s < t
            return columns[under][s[under].argmax()] if under.any() else columns.new_tensor(-1)
        case Min():
            return s[s.argmin()] if len(s) else s.sum() + torch.inf
        case Sum():
            return s.sum()
        case Count():
            return (s > t).sum().to(s.dtype)
        case HingeSum():
            return (s - t).clamp_min(0).sum()
        case SquaredHingeSum():
            return (s - t).clamp_min(0).square().sum()
        case SoftplusSum(scale=scale):
            return torch.logaddexp(scale * (s - t), torch.zeros_like(s)).sum() / scale
