"""Reductions over some candidates at a time, put together."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
from nearfar.similarity.stable import logsumexp

Nearness = Callable[[Int[Tensor, "row k"]], Float[Tensor, "row k"]]
"""Similarity of each row's anchor with the candidates named; -inf for -1."""


def asked_of_each(reduction: Reduction) -> tuple[Reduction, ...] | None:
    """Return what to ask some candidates, so that all follows; None where it does not."""
    match reduction:
        case SoftMean(scale=scale, per=per):
            return reduction, LogSumExp(scale=scale, per=per)
        case ArgMax(below=below, per=per):
            return reduction, Max(below=below, per=per)
        case OrderStatistic() | Sample():
            return None
        case TopK(per="positive"):
            return None
        case _:
            return (reduction,)


def merged(reduction: Reduction, parts: Sequence[Float[Tensor, "part row *k"]], near: Nearness) -> Tensor:
    """Put together what ``asked_of_each`` has found among each part of the candidates.

    Sums over parts run in float64: there are few of them, and the parts are rounded already.
    """
    first = parts[0]
    match reduction:
        case LogSumExp():
            x = first.double().mT
            return logsumexp(x, x > -torch.inf).to(first.dtype)
        case SoftMean(frozen=frozen):
            mass = (parts[1].detach() if frozen else parts[1]).double()
            some = (mass > -torch.inf).any(0)
            weight = torch.softmax(mass.masked_fill(~some, 0.0), 0)
            return (weight * first).sum(0).to(first.dtype)
        case Max():
            return first.max(0).values
        case Min():
            return first.min(0).values
        case ArgMax():
            return first.gather(0, parts[1].argmax(0)[None])[0]
        case TopK(k=k):
            named = first.permute(1, 0, 2).flatten(1)
            place = near(named).topk(k, 1).indices
            return named.gather(1, place)
        case (
            Sum()
            | Count()
            | HingeSum()
            | SquaredHingeSum()
            | SoftplusSum()
            | SigmoidSum()
            | SigmoidSquareSum()
        ):
            return first.double().sum(0).to(first.dtype)
    raise AssertionError(reduction)


def with_thresholds(reductions: Sequence[Reduction], thresholds: Sequence[Tensor]) -> list[Reduction]:
    """Return the reductions with their thresholds that are tensors replaced, in order."""
    left = iter(thresholds)
    return [
        _with_threshold(reduction, next(left)) if isinstance(threshold_of(reduction), Tensor) else reduction
        for reduction in reductions
    ]


def _with_threshold(reduction: Reduction, threshold: Tensor) -> Reduction:
    match reduction:
        case Max() | ArgMax():
            return replace(reduction, below=threshold)
        case Count():
            return replace(reduction, above=threshold)
        case HingeSum() | SquaredHingeSum() | SoftplusSum() | SigmoidSum() | SigmoidSquareSum():
            return replace(reduction, threshold=threshold)
    raise AssertionError(reduction)
