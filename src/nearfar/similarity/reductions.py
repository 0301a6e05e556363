"""What a loss may ask about an anchor's negatives: the reductions, as descriptions.

A reduction says *what* is computed; a backend knows *how*. With N_i the negatives of anchor i and s_ij the
similarity, each gives one value per anchor, or, with ``per="positive"``, one per positive pair p = (i, j),
whose threshold t_p may differ from pair to pair and may carry gradient:

    LogSumExp(a, b)      log Σ_{j∈N_i} exp(a (s_ij - b))
    Max, Min             the largest, smallest s_ij;  Max(below=t): the largest s_ij < t
    ArgMax               the candidate that Max found, -1 where there is none (no gradient)
    Sum, Count           Σ s_ij and |N_i|;  Count(above=t): how many s_ij > t
    HingeSum(t)          Σ max(0, s_ij - t)
    SquaredHingeSum(t)   Σ max(0, s_ij - t)²
    SoftplusSum(t, a)    Σ log(1 + exp(a (s_ij - t))) / a

An anchor without negatives gives 0 for sums and counts, -inf for LogSumExp and Max, +inf for Min.
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

from torch import Tensor

Per = Literal["anchor", "positive"]
Threshold = float | Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class LogSumExp:
    scale: float
    shift: float = 0.0
    per: Per = "anchor"


@dataclass(frozen=True, eq=False, kw_only=True)
class Max:
    below: Threshold = inf
    per: Per = "anchor"


@dataclass(frozen=True, eq=False, kw_only=True)
class ArgMax:
    below: Threshold = inf
    per: Per = "anchor"


@dataclass(frozen=True, eq=False, kw_only=True)
class Min:
    per: Per = "anchor"


@dataclass(frozen=True, eq=False, kw_only=True)
class Sum:
    per: Per = "anchor"


@dataclass(frozen=True, eq=False, kw_only=True)
class Count:
    above: Threshold = -inf
    per: Per = "anchor"


@dataclass(frozen=True, eq=False)
class HingeSum:
    threshold: Threshold
    per: Per = "anchor"


@dataclass(frozen=True, eq=False)
class SquaredHingeSum:
    threshold: Threshold
    per: Per = "anchor"


@dataclass(frozen=True, eq=False)
class SoftplusSum:
    threshold: Threshold
    scale: float = 1.0
    per: Per = "anchor"


Reduction = LogSumExp | Max | ArgMax | Min | Sum | Count | HingeSum | SquaredHingeSum | SoftplusSum


def threshold_of(reduction: Reduction) -> Threshold:
    """Return the value a reduction compares similarities with; 0 where it compares with none."""
    match reduction:
        case HingeSum() | SquaredHingeSum() | SoftplusSum():
            return reduction.threshold
        case Max() | ArgMax():
            return reduction.below
        case Count():
            return reduction.above
        case _:
            return 0.0
