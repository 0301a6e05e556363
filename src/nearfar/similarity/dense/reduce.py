"""The reductions over a matrix of similarities that is in memory, with plain autograd."""

import torch
from torch import Tensor

from nearfar.similarity.curves import CurveSum
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
    Threshold,
    TopK,
)
from nearfar.similarity.stable import logsumexp, softplus


def reduce(s: Tensor, keep: Tensor, reduction: Reduction, threshold: Threshold) -> Tensor:
    """Apply a reduction to each row of ``s`` [row, column] over the columns kept."""
    t = threshold[:, None] if isinstance(threshold, Tensor) and threshold.ndim else threshold
    match reduction:
        case LogSumExp():
            return logsumexp(logits(s, reduction), keep)
        case SoftMean(scale=scale, frozen=frozen):
            z = (scale * (s.detach() if frozen else s)).masked_fill(~keep, -torch.inf)
            z = z.masked_fill(~keep.any(1, keepdim=True), 0.0)
            return (torch.softmax(z, 1) * keep * s).sum(1)
        case Max():
            return _largest(s, keep & (s < t))[0]
        case ArgMax():
            value, column = _largest(s, keep & (s < t))
            return column.masked_fill(value == -torch.inf, -1)
        case TopK(k=k):
            return top_k(s.detach(), keep, k)[1]
        case Min():
            return -_largest(-s, keep)[0]
        case Count():
            return (keep & (s > t)).sum(1).to(s.dtype)
        case Sum() | HingeSum() | SquaredHingeSum() | SoftplusSum() | SigmoidSum() | SigmoidSquareSum():
            return (term(s, t, reduction) * keep).sum(1)
        case OrderStatistic(rank=rank):
            return order_statistic(s.detach(), keep, rank)
        case Sample(log_weight=log_weight, uniform=uniform):
            return draw(log_weight(s.detach()), keep, uniform)


def term(s: Tensor, t: Threshold, reduction: CurveSum) -> Tensor:
    """What each similarity adds to a sum."""
    match reduction:
        case Sum():
            return s
        case Count():
            return (s > t).to(s.dtype)
        case HingeSum():
            return (s - t).relu()
        case SquaredHingeSum():
            return (s - t).relu().square()
        case SoftplusSum(scale=scale):
            return softplus(scale * (s - t)) / scale
        case SigmoidSum(scale=scale, cap=cap):
            z = s - t
            return torch.sigmoid(scale * z.masked_fill(z > cap, cap))
        case SigmoidSquareSum(scale=scale):
            return torch.sigmoid(scale * (s - t)).square()


def logits(s: Tensor, reduction: LogSumExp) -> Tensor:
    """The exponents z of a LogSumExp."""
    z = reduction.scale * (s - reduction.shift)
    if reduction.floor is None:
        return z
    factor = (s - reduction.floor).relu()
    return z * (factor.detach() if reduction.frozen else factor)


def top_k(s: Tensor, keep: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the k largest kept entries of each row; -inf and -1 where there are fewer."""
    s = s.masked_fill(~keep, -torch.inf)
    if s.shape[1] < k:
        s = torch.cat([s, s.new_full((len(s), k - s.shape[1]), -torch.inf)], 1)
    value, column = largest(s, k)
    return value, column.masked_fill(value == -torch.inf, -1)


def largest(s: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the k largest entries of each row, largest first; of equals the first column."""
    if k == 1:
        return s.max(1, keepdim=True)
    value, column = s.sort(dim=1, descending=True, stable=True)
    return value[:, :k], column[:, :k]


def order_statistic(s: Tensor, keep: Tensor, rank: int | Tensor) -> Tensor:
    """The rank-th largest kept entry of each row; +inf for a rank below 1, -inf beyond the last."""
    if s.shape[1] == 0:
        s, keep = s.new_zeros(len(s), 1), keep.new_zeros(len(s), 1)
    ordered = s.masked_fill(~keep, -torch.inf).sort(1, descending=True).values
    place = torch.as_tensor(rank, device=s.device).expand(len(s)) - 1
    value = ordered.gather(1, place.clamp(0, s.shape[1] - 1)[:, None])[:, 0]
    return value.masked_fill(place < 0, torch.inf).masked_fill(place >= s.shape[1], -torch.inf)


def draw(log_weight: Tensor, keep: Tensor, uniform: Tensor) -> Tensor:
    """Draw columns by inverse cumulative weight, in float64; -1 for a row that keeps nothing."""
    if log_weight.shape[1] == 0:
        return torch.full(uniform.shape, -1, device=uniform.device)
    z = log_weight.double().masked_fill(~keep, -torch.inf)
    top = z.amax(1, keepdim=True)
    weight = torch.where(top > -torch.inf, (z - top.clamp_min(-1e300)).exp(), 0.0)
    weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, keep.double())
    mass = weight.cumsum(1)
    target = uniform.double() * mass[:, -1:]
    column = torch.searchsorted(mass, target, right=True).clamp_max(mass.shape[1] - 1)
    # Rounding may point at a column without weight: step back to the last one that has some.
    last = torch.where(weight > 0, torch.arange(mass.shape[1], device=mass.device), -1).cummax(1).values
    return last.gather(1, column).masked_fill(~keep.any(1, keepdim=True), -1)


def _largest(s: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    if s.shape[1] == 0:
        return s.new_full((len(s),), -torch.inf), torch.full((len(s),), -1, device=s.device)
    value, column = s.masked_fill(~keep, -torch.inf).max(1)
    return value, column
