"""The whole similarity matrix in memory and plain autograd: for small batches and double backward."""

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
    Threshold,
    threshold_of,
)
from nearfar.similarity.stable import logsumexp, softplus


def prepare(vectors: Tensor) -> Tensor:
    """Compute in the precision of the input, half precision in float32."""
    return vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors


def positives(block: Block, anchor: Tensor, candidate: Tensor) -> Tensor:
    """Similarity of each positive pair: the very numbers that ``stream`` compares."""
    return block.matrix[anchor, candidate]


def stream(
    block: Block, interval: Interval, owners: Tensor, reductions: Sequence[Reduction]
) -> tuple[Tensor, ...]:
    """Reduce each anchor's negatives (see ``Backend.stream``)."""
    every = torch.arange(len(block.anchors), device=owners.device)
    return tuple(
        _stream_one(block, interval, every if reduction.per == "anchor" else owners, reduction)
        for reduction in reductions
    )


def _stream_one(block: Block, interval: Interval, rows: Tensor, reduction: Reduction) -> Tensor:
    s = block.matrix[rows]
    keep = block.relation.negative(rows) & interval.holds(s, rows)
    return reduce(s, keep, reduction, threshold_of(reduction))


def reduce(s: Tensor, keep: Tensor, reduction: Reduction, threshold: Threshold) -> Tensor:
    """Apply a reduction to each row of ``s`` [row, column] over the columns kept."""
    t = threshold[:, None] if isinstance(threshold, Tensor) and threshold.ndim else threshold
    match reduction:
        case LogSumExp(scale=scale, shift=shift):
            return logsumexp(scale * (s - shift), keep)
        case Max():
            return _largest(s, keep & (s < t))[0]
        case ArgMax():
            value, column = _largest(s, keep & (s < t))
            return column.masked_fill(value == -torch.inf, -1)
        case Min():
            return -_largest(-s, keep)[0]
        case Sum():
            return (s * keep).sum(1)
        case Count():
            return (keep & (s > t)).sum(1).to(s.dtype)
        case HingeSum():
            return ((s - t).clamp_min(0) * keep).sum(1)
        case SquaredHingeSum():
            return ((s - t).clamp_min(0).square() * keep).sum(1)
        case SoftplusSum(scale=scale):
            return (softplus(scale * (s - t)) * keep).sum(1) / scale


def _largest(s: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    if s.shape[1] == 0:
        return s.new_full((len(s),), -torch.inf), torch.full((len(s),), -1, device=s.device)
    value, column = s.masked_fill(~keep, -torch.inf).max(1)
    return value, column
