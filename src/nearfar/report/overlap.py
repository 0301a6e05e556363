"""How far same and different pictures stand apart: histograms, their overlap, d', equal-error threshold."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from nearfar.evaluate import verification

PAIRS = 200_000
FALSE_ALARMS = (0.1, 0.01, 0.001)
# Bins lie on one grid, so that two histograms can stand over one axis; few pairs get wide bins.
BIN, WIDE_BIN, FEW = 0.02, 0.04, 5000


@dataclass(frozen=True)
class Overlap:
    """Pairs of the same class (positives) against pairs of different classes (negatives)."""

    positive_pairs: int
    negative_pairs: int
    all_positive_pairs: int
    all_negative_pairs: int
    positive_mean: float
    negative_mean: float
    overlap: float
    d_prime: float
    threshold: float
    equal_error: float
    auc: float
    tar_at_far: dict[str, float]
    edges: list[float]
    positives: list[float]
    negatives: list[float]

    @property
    def sampled(self) -> bool:
        return self.positive_pairs < self.all_positive_pairs or self.negative_pairs < self.all_negative_pairs


def count_pairs(labels: Int64[np.ndarray, " n"]) -> tuple[int, int]:
    """Count the unordered pairs of the same and of different classes."""
    sizes = np.unique(labels, return_counts=True)[1].astype(object)
    same = sum(int(size) * (int(size) - 1) // 2 for size in sizes)
    return same, len(labels) * (len(labels) - 1) // 2 - same


def sample_pairs(
    embeddings: Float32[np.ndarray, "n dim"], labels: Int64[np.ndarray, " n"], seed: int, limit: int = PAIRS
) -> tuple[Float32[np.ndarray, " positive"], Float32[np.ndarray, " negative"]]:
    """Return similarities of positive and of negative pairs: all where they are few, else drawn at random.

    Positives are drawn when there are more than ``limit``, negatives when there are several times as many; a
    drawn pair may come twice.
    """
    generator = np.random.default_rng(seed)
    all_same, all_different = count_pairs(labels)
    order = np.argsort(labels, kind="stable")
    sizes = np.unique(labels, return_counts=True)[1]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    if all_same <= limit:
        parts = [
            _pairs_within(order[start : start + size]) for start, size in zip(starts, sizes, strict=True)
        ]
        same = np.concatenate(parts)
    else:
        # A class is drawn in proportion to its number of pairs, so that every positive pair is as likely.
        share = sizes.astype(np.float64) * (sizes - 1)
        group = generator.choice(len(sizes), limit, p=share / share.sum())
        first = generator.integers(0, sizes[group])
        second = (first + generator.integers(1, sizes[group])) % sizes[group]
        same = np.stack([order[starts[group] + first], order[starts[group] + second]], axis=1)
    if all_same + all_different <= 4 * limit:
        different = _pairs_within(np.arange(len(labels)))
        different = different[labels[different[:, 0]] != labels[different[:, 1]]]
    else:
        parts, missing = [], limit
        while missing > 0:
            drawn = generator.integers(0, len(labels), (2 * limit, 2))
            parts.append(drawn[labels[drawn[:, 0]] != labels[drawn[:, 1]]][:missing])
            missing -= len(parts[-1])
        different = np.concatenate(parts)
    return _products(embeddings, same), _products(embeddings, different)


def _pairs_within(rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "pair 2"]:
    first, second = np.triu_indices(len(rows), 1)
    return np.stack([rows[first], rows[second]], axis=1)


def _products(
    embeddings: Float32[np.ndarray, "n dim"], pairs: Int64[np.ndarray, "pair 2"]
) -> Float32[np.ndarray, " pair"]:
    parts = [
        np.einsum("nd,nd->n", embeddings[part[:, 0]], embeddings[part[:, 1]])
        for part in np.array_split(pairs, max(1, len(pairs) // 20_000))
    ]
    return np.concatenate(parts).astype(np.float32)


def measure(
    embeddings: Float32[np.ndarray, "n dim"], labels: Int64[np.ndarray, " n"], seed: int = 0
) -> Overlap | None:
    """Compare positives with negatives; None where one of the two kinds does not occur."""
    all_same, all_different = count_pairs(labels)
    if all_same == 0 or all_different == 0:
        return None
    positives, negatives = sample_pairs(embeddings, labels, seed)
    width = BIN if min(len(positives), len(negatives)) >= FEW else WIDE_BIN
    last = round(1 / width)
    low = min(max(math.floor(float(min(positives.min(), negatives.min())) / width), -last), last - 1)
    edges = np.arange(low, last + 1) * width
    shares = []
    for values in (positives, negatives):
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        shares.append(counts / counts.sum())
    rates = verification(
        np.concatenate([positives, negatives]),
        np.repeat([True, False], [len(positives), len(negatives)]),
        far=[far for far in FALSE_ALARMS if far * len(negatives) >= 1],
    )
    # Where the false alarms, rising as the threshold falls, first outnumber the misses.
    crossing = int(np.argmax(rates.far >= 1 - rates.tar))
    spread = math.sqrt((float(positives.var(dtype=np.float64)) + float(negatives.var(dtype=np.float64))) / 2)
    apart = float(positives.mean(dtype=np.float64)) - float(negatives.mean(dtype=np.float64))
    return Overlap(
        positive_pairs=len(positives),
        negative_pairs=len(negatives),
        all_positive_pairs=all_same,
        all_negative_pairs=all_different,
        positive_mean=float(positives.mean(dtype=np.float64)),
        negative_mean=float(negatives.mean(dtype=np.float64)),
        overlap=float(np.minimum(*shares).sum()),
        d_prime=apart / spread if spread > 0 else math.nan,
        threshold=float(min(rates.thresholds[crossing], 1.0)),
        equal_error=rates.eer,
        auc=rates.auc,
        tar_at_far={str(far): tar for far, tar in rates.tar_at_far.items()},
        edges=edges.tolist(),
        positives=shares[0].tolist(),
        negatives=shares[1].tolist(),
    )
