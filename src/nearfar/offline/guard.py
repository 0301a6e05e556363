"""Negatives that are too near to be believed: the same thing under two labels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64


@dataclass(frozen=True, eq=False)
class Suspects:
    """Pairs of rows with different labels that are as near as hardly any pair of one class, nearest first.

    Attributes:
        pairs: two rows each, the lower first; each pair once.
        similarity: of each pair.
        mutual: whether each is the other's nearest row of another class: the surest cases.
        threshold: similarity from which a pair is suspect; +inf where no class has two rows.
    """

    pairs: Int64[np.ndarray, "pair 2"]
    similarity: Float32[np.ndarray, " pair"]
    mutual: Bool[np.ndarray, " pair"]
    threshold: float

    def __repr__(self) -> str:
        return f"Suspects({len(self)} pairs from {self.threshold:.4g})"

    def __len__(self) -> int:
        return len(self.pairs)


def threshold_of(positives: Float32[np.ndarray, " positive"], share: float) -> float:
    """Return the similarity that ``share`` of the pairs of one class stay below.

    The measure of "nearly the same" is taken from the classes themselves: it follows the network as it
    trains, and needs no number that fits one data set only. A pair of different classes that is nearer than
    19 of 20 pairs of one class is more likely one thing with two labels than two things.
    """
    return float(np.quantile(positives, share)) if len(positives) else float("inf")


def suspects(
    negatives: Int64[np.ndarray, "n near"], similarity: Float32[np.ndarray, "n near"], threshold: float
) -> Suspects:
    """Find the suspect pairs among the nearest negatives of each row (-1 is none).

    Args:
        negatives: nearest rows of other classes, nearest first.
        similarity: of each.
        threshold: from ``threshold_of``.
    """
    row, place = np.nonzero((negatives >= 0) & (similarity >= threshold))
    pairs = np.sort(np.stack([row, negatives[row, place]], axis=1), axis=1).astype(np.int64)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    value = similarity[row, place][first]
    order = np.argsort(-value, kind="stable")
    pairs, value = pairs[order], value[order]
    nearest = negatives[:, 0] if negatives.shape[1] else np.full(len(negatives), -1)
    mutual = (nearest[pairs[:, 0]] == pairs[:, 1]) & (nearest[pairs[:, 1]] == pairs[:, 0])
    return Suspects(pairs, value, mutual, threshold)
