"""What a loss may ask about an anchor's negatives: the reductions, as descriptions.

A reduction says *what* is computed; a backend knows *how*. With N_i the negatives of anchor i and s_ij the
similarity, each gives one value per anchor:

    LogSumExp(a, b)             log Σ_{j∈N_i} exp(a (s_ij - b))
    SoftMean(a)                 Σ_{j∈N_i} p_ij s_ij  with  p_ij = softmax_j(a s_ij)
    Max, Min                    the largest, smallest s_ij;  Max(below=t): the largest s_ij < t
    ArgMax                      the candidate that Max found, -1 where there is none (no gradient)
    TopK(k)                     the k candidates of largest s_ij, nearest first, -1 for none: [n, k]
    Sum, Count                  Σ s_ij and |N_i|;  Count(above=t): how many s_ij > t
    HingeSum(t)                 Σ max(0, s_ij - t)
    SquaredHingeSum(t)          Σ max(0, s_ij - t)²
    SoftplusSum(t, a)           Σ log(1 + exp(a (s_ij - t))) / a
    SigmoidSum(t, a, c)         Σ σ(a min(s_ij - t, c))
    SigmoidSquareSum(t, a)      Σ σ(a (s_ij - t))²
    OrderStatistic(r)           the r-th largest s_ij, of each anchor or of the whole batch (no gradient)
    Sample(w, k)                k candidates drawn with replacement, with weights exp w(s_ij): [n, k]

With ``per="positive"`` there is one value for each positive pair p = (i, j), whose threshold t_p may differ
from pair to pair. With ``per="candidate"`` there is one for each candidate, over the anchors that it is a
negative of; OrderStatistic and Sample are of anchors only. Thresholds may carry gradient.

Of several candidates that are equal one is taken: the first, as a backend lists them.
Where a hinge, a floor or a positive part is at its kink, its slope is 0; at a cap it is that of the inside.
A row without negatives gives 0 for sums, counts and means, -inf for LogSumExp, Max and OrderStatistic, +inf
for Min.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, Literal

from torch import Tensor

Per = Literal["anchor", "positive", "candidate"]
Threshold = float | Tensor


@dataclass(eq=False, kw_only=True)
class LogSumExp:
    """log Σ e^z with z = a (s - b), or z = a max(0, s - f) (s - b) where a floor f is given.

    ``frozen`` takes the factor max(0, s - f) as a constant for the gradient.
    """

    scale: float
    shift: float = 0.0
    floor: float | None = None
    frozen: bool = False
    per: Per = "anchor"


@dataclass(eq=False, kw_only=True)
class SoftMean:
    """``frozen`` takes the weights p as constants for the gradient."""

    scale: float
    frozen: bool = False
    per: Per = "anchor"


@dataclass(eq=False, kw_only=True)
class Max:
    below: Threshold = inf
    per: Per = "anchor"


@dataclass(eq=False, kw_only=True)
class ArgMax:
    below: Threshold = inf
    per: Per = "anchor"


@dataclass(eq=False)
class TopK:
    k: int
    per: Per = "anchor"


@dataclass(eq=False, kw_only=True)
class Min:
    per: Per = "anchor"


@dataclass(eq=False, kw_only=True)
class Sum:
    per: Per = "anchor"


@dataclass(eq=False, kw_only=True)
class Count:
    above: Threshold = -inf
    per: Per = "anchor"


@dataclass(eq=False)
class HingeSum:
    threshold: Threshold
    per: Per = "anchor"


@dataclass(eq=False)
class SquaredHingeSum:
    threshold: Threshold
    per: Per = "anchor"


@dataclass(eq=False)
class SoftplusSum:
    threshold: Threshold
    scale: float = 1.0
    per: Per = "anchor"


@dataclass(eq=False)
class SigmoidSum:
    threshold: Threshold
    scale: float = 1.0
    cap: float = inf
    per: Per = "anchor"


@dataclass(eq=False)
class SigmoidSquareSum:
    threshold: Threshold
    scale: float = 1.0
    per: Per = "anchor"


@dataclass(eq=False)
class OrderStatistic:
    """``rank`` is 1 for the largest: one number, or one for each anchor.

    A rank below 1 or beyond the number of negatives gives +inf or -inf. ``over="batch"`` ranks the negatives
    of all anchors together; every anchor gets the same value.
    """

    rank: int | Tensor
    over: Literal["anchor", "batch"] = "anchor"
    per: ClassVar[Per] = "anchor"


@dataclass(eq=False)
class Sample:
    """``log_weight(s)`` is an elementwise function of similarities; -inf is never drawn.

    ``uniform`` [anchor, k] in [0, 1) are the draws: candidate c is taken where Σ_{j<c} w_j <= u Σ_j w_j. An
    anchor whose weights are all zero draws uniformly among its negatives.
    """

    log_weight: Callable[[Tensor], Tensor]
    uniform: Tensor
    per: ClassVar[Per] = "anchor"


@dataclass(eq=False)
class Negated:
    """A reduction of -s in place of s, of positives: what they lack where a negative has too much."""

    of: "Reduction"


Reduction = (
    LogSumExp
    | SoftMean
    | Max
    | ArgMax
    | TopK
    | Min
    | Sum
    | Count
    | HingeSum
    | SquaredHingeSum
    | SoftplusSum
    | SigmoidSum
    | SigmoidSquareSum
    | OrderStatistic
    | Sample
)


CURVES = (Sum, Count, HingeSum, SquaredHingeSum, SoftplusSum, SigmoidSum, SigmoidSquareSum)
"""Sums of a function of each similarity."""


NAMES: dict[type, str] = {
    Max: "below",
    ArgMax: "below",
    Count: "above",
    **dict.fromkeys(CURVES[2:], "threshold"),
}
"""What a reduction calls the value that it compares similarities with."""


def threshold_of(reduction: Reduction) -> Threshold:
    """Return the value a reduction compares similarities with; 0 where it compares with none."""
    name = NAMES.get(type(reduction))
    return 0.0 if name is None else getattr(reduction, name)


def held_against(reduction: Reduction, places: Tensor) -> Reduction:
    """Return the same reduction with some of its thresholds, those at ``places`` of all read row by row."""
    threshold = threshold_of(reduction)
    if not isinstance(threshold, Tensor) or not threshold.ndim:
        return reduction
    return _against(reduction, threshold.flatten().index_select(0, places))


def flat(reduction: Reduction) -> Reduction:
    """Return the same reduction with a table of thresholds read row by row."""
    threshold = threshold_of(reduction)
    if not isinstance(threshold, Tensor) or threshold.ndim < 2:
        return reduction
    return _against(reduction, threshold.flatten())


def _against(reduction: Reduction, some: Tensor) -> Reduction:
    match reduction:
        case Max() | ArgMax():
            return replace(reduction, below=some)
        case Count():
            return replace(reduction, above=some)
        case HingeSum() | SquaredHingeSum() | SoftplusSum() | SigmoidSum() | SigmoidSquareSum():
            return replace(reduction, threshold=some)
        case _:
            return reduction


def empty_of(reduction: Reduction) -> float:
    """Return what a row without negatives gives; -1 for no candidate."""
    match reduction:
        case LogSumExp() | Max() | OrderStatistic():
            return -inf
        case Min():
            return inf
        case ArgMax() | TopK() | Sample():
            return -1
        case _:
            return 0.0
