"""Verification: are two images of the same class? Curves and error rates from scores of pairs."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.evaluate.plain import as_html, plain_numbers
from nearfar.evaluate.rows import as_rows, in_units, peaks, plain_array, power_beyond
from nearfar.evaluate.settings import whole_number


@dataclass(frozen=True)
class Verification:
    """Error rates of the rule "same if score ≥ threshold".

    FAR(t) is the share of impostor pairs accepted at threshold t, TAR(t) that of genuine pairs.

    Attributes:
        auc: P(genuine score > impostor score) + P(equal) / 2.
        eer: FAR where it equals 1 - TAR, by linear interpolation between the points of the curve.
        best_accuracy: largest share of pairs decided correctly by one threshold.
        best_threshold: the highest threshold that reaches it.
        tar_at_far: largest TAR with FAR ≤ target, for each target: never better than promised.
        threshold_at_far: the threshold that does it.
        actual_far: its FAR.
        resolution: 1 / number of impostor pairs, the smallest FAR above 0 these pairs can show.
        thresholds: +inf and the distinct scores, descending.
        far: FAR at each threshold.
        tar: TAR at each threshold.
        n_genuine: pairs of the same class.
        n_impostor: other pairs.
    """

    auc: float
    eer: float
    best_accuracy: float
    best_threshold: float
    tar_at_far: dict[float, float]
    threshold_at_far: dict[float, float]
    actual_far: dict[float, float]
    resolution: float
    n_genuine: int
    n_impostor: int
    thresholds: Float64[np.ndarray, " point"] = field(repr=False)
    far: Float64[np.ndarray, " point"] = field(repr=False)
    tar: Float64[np.ndarray, " point"] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the curve, ready for JSON.

        There a threshold of +inf, which accepts nothing, is the first number above all scores.
        """
        above = float(np.nextafter(self.thresholds[1], np.inf))
        values = {name: value for name, value in vars(self).items() if not isinstance(value, np.ndarray)}
        values["best_threshold"] = min(self.best_threshold, above)
        values["threshold_at_far"] = {far: min(at, above) for far, at in self.threshold_at_far.items()}
        return plain_numbers(values)

    def _repr_html_(self) -> str:
        return as_html(self)

    def __str__(self) -> str:
        lines = [
            f"AUC {self.auc:.4f}   EER {100 * self.eer:.2f} %   "
            f"best accuracy {100 * self.best_accuracy:.2f} %"
        ]
        lines += [f"TAR at FAR {far:g}: {100 * tar:.2f} %" for far, tar in self.tar_at_far.items()]
        return "\n".join([*lines, f"{self.n_genuine} genuine and {self.n_impostor} impostor pairs"])


def verification(
    scores: Tensor | np.ndarray | Sequence[float],
    same: Tensor | np.ndarray | Sequence[int],
    *,
    far: Sequence[float] = (0.1, 0.01, 0.001),
) -> Verification:
    """Measure how well the score of a pair says whether its two images are of the same class.

    Args:
        scores: one score for each pair, larger = more likely the same.
        same: whether the pair is of the same class, bool or 0 and 1.
        far: targets of ``tar_at_far``, in [0, 1].

    Returns:
        Curve and rates.

    Raises:
        NearfarError: if lengths differ, a score is not finite, or one kind of pair is missing.
    """
    targets = _targets(far)
    value, genuine = _vector(scores, "scores"), _flags(same)
    if len(value) != len(genuine):
        raise NearfarError(
            f"scores has {len(value)} values but same has {len(genuine)}; give one of each a pair."
        )
    n_genuine, n_impostor = int(genuine.sum()), int((~genuine).sum())
    if n_genuine == 0 or n_impostor == 0:
        raise NearfarError(
            f"there are {n_genuine} genuine and {n_impostor} impostor pairs; verification needs both kinds."
        )
    distinct, code = np.unique(-value, return_inverse=True)
    thresholds = np.concatenate([[np.inf], -distinct])
    accepted_genuine = np.concatenate([[0], np.cumsum(np.bincount(code[genuine], minlength=len(distinct)))])
    accepted_impostor = np.concatenate([[0], np.cumsum(np.bincount(code[~genuine], minlength=len(distinct)))])
    tar, false = accepted_genuine / n_genuine, accepted_impostor / n_impostor
    correct = (accepted_genuine + n_impostor - accepted_impostor) / len(value)
    best = int(np.argmax(correct))
    tar_at, threshold_at, actual = {}, {}, {}
    for target in targets:
        if 0 < target < 1 / n_impostor:
            warnings.warn(
                f"FAR {target:g} cannot be measured with {n_impostor} impostor pairs (one pair is "
                f"{1 / n_impostor:.2g}); what is reported there is TAR at FAR 0.",
                UserWarning,
                stacklevel=2,
            )
        # The first threshold that reaches the largest TAR allowed.
        allowed = np.flatnonzero(false <= target)
        point = int(allowed[np.argmax(tar[allowed])])
        tar_at[target], threshold_at[target] = float(tar[point]), float(thresholds[point])
        actual[target] = float(false[point])
    return Verification(
        auc=float(np.sum(np.diff(false) * (tar[1:] + tar[:-1]) / 2)),
        eer=_equal_error(false, 1 - tar),
        best_accuracy=float(correct[best]),
        best_threshold=float(thresholds[best]),
        tar_at_far=tar_at,
        threshold_at_far=threshold_at,
        actual_far=actual,
        resolution=1 / n_impostor,
        n_genuine=n_genuine,
        n_impostor=n_impostor,
        thresholds=thresholds,
        far=false,
        tar=tar,
    )


def _equal_error(far: Float64[np.ndarray, " point"], frr: Float64[np.ndarray, " point"]) -> float:
    """Where the rising FAR crosses the falling FRR."""
    after = int(np.argmax(far >= frr))
    if far[after] == frr[after]:
        return float(far[after])
    gap_before, gap_after = far[after - 1] - frr[after - 1], far[after] - frr[after]
    share = -gap_before / (gap_after - gap_before)
    return float(far[after - 1] + share * (far[after] - far[after - 1]))


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy over folds: mean, population standard deviation, each fold and its threshold."""

    accuracy: float
    std: float
    per_fold: Float64[np.ndarray, " fold"] = field(repr=False)
    thresholds: Float64[np.ndarray, " fold"] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return plain_numbers(vars(self))

    def __str__(self) -> str:
        return (
            f"accuracy {100 * self.accuracy:.2f} % ± {100 * self.std:.2f} % over {len(self.per_fold)} folds"
        )

    def _repr_html_(self) -> str:
        return as_html(self)


def fold_accuracy(
    first: Tensor | np.ndarray,
    second: Tensor | np.ndarray,
    same: Tensor | np.ndarray | Sequence[int],
    *,
    folds: int = 10,
    thresholds: Sequence[float] | np.ndarray | None = None,
) -> FoldAccuracy:
    """Accuracy of pairs by the protocol of Labelled Faces in the Wild.

    The pairs are cut into contiguous folds. A pair is accepted if |a - b|² < t; for each fold, t is the first
    of ``thresholds`` with the best accuracy on the other folds.

    Args:
        first: unit-length embeddings of the first images [pair, dim].
        second: of the second images.
        same: whether the pair is of the same person.
        folds: number of folds; the order of the pairs matters.
        thresholds: candidates for t; 0, 0.01, …, 3.99 when left out.

    Returns:
        Accuracies.

    Reference:
        Huang et al., Labeled Faces in the Wild, 2007.
    """
    left, right, genuine = as_rows(first, "first"), as_rows(second, "second"), _flags(same)
    if left.shape != right.shape or len(left) != len(genuine):
        raise NearfarError(
            f"first has shape {left.shape}, second {right.shape} and same {len(genuine)} values; "
            "give one row of each for every pair."
        )
    if len(left) < 2:
        raise NearfarError("there is one pair; the protocol needs two folds or more, so two pairs or more.")
    folds = whole_number(folds, "folds", 2, most=len(left))
    limits = np.arange(0, 4, 0.01) if thresholds is None else _vector(thresholds, "thresholds")
    if len(limits) == 0:
        raise NearfarError("thresholds is empty; give at least one, or leave it out.")
    # In units where a square fits: 4 |a - b|² of rows that are no unit length may not.
    power = max(0, power_beyond(float(max(peaks(left).max(), peaks(right).max()))))
    squared = ((in_units(left, power).astype(np.float64) - in_units(right, power)) ** 2).sum(axis=1)
    with np.errstate(over="ignore"):
        squared = np.ldexp(squared, 2 * power)
    correct = (squared[:, None] < limits) == genuine[:, None]
    fold = np.concatenate([np.full(len(part), i) for i, part in enumerate(np.array_split(squared, folds))])
    accuracy, chosen = np.empty(folds), np.empty(folds)
    for i in range(folds):
        best = int(np.argmax(correct[fold != i].mean(axis=0)))
        accuracy[i], chosen[i] = correct[fold == i, best].mean(), limits[best]
    return FoldAccuracy(float(accuracy.mean()), float(accuracy.std()), accuracy, chosen)


def _targets(far: Sequence[float] | np.ndarray | Tensor) -> list[float]:
    try:
        targets = [float(target) for target in far]
    except (TypeError, ValueError) as error:
        raise NearfarError(f"far is {repr(far)[:60]}; give targets, rates between 0 and 1.") from error
    for target in targets:
        if not 0 <= target <= 1:
            raise NearfarError(f"far has {target}; targets are rates between 0 and 1.")
    return targets


def _vector(values: Tensor | np.ndarray | Sequence[float], name: str) -> Float[np.ndarray, " n"]:
    array = plain_array(values, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        raise NearfarError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; give one number for each pair."
        )
    array = array.astype(np.float64)
    wrong = np.count_nonzero(~np.isfinite(array))
    if wrong:
        nan = np.count_nonzero(np.isnan(array))
        what = "NaN" if nan == wrong else "infinite" if nan == 0 else "NaN or infinite"
        raise NearfarError(f"{name} has {wrong} {what} values of {len(array)}; remove these pairs.")
    return array


def _flags(same: Tensor | np.ndarray | Sequence[int]) -> Bool[np.ndarray, " n"]:
    array = plain_array(same, "same")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "biu" or not np.isin(array, (0, 1)).all():
        raise NearfarError("same must be one truth value for each pair, bool or 0 and 1.")
    return array.astype(bool)
