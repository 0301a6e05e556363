"""The map: embeddings laid out on a plane so that near pictures stay near."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from nearfar.errors import require

LIMIT = 5000
# Beyond this the picture hardly changes, and 5,000 points take their time.
STEPS = 750


@dataclass(frozen=True)
class Map:
    """Places of some rows on a plane, in [0, 1], and in words how they were found."""

    rows: Int64[np.ndarray, " point"]
    places: Float32[np.ndarray, "point 2"]
    method: str
    sampled: bool


def lay_out(embeddings: Float32[np.ndarray, "n dim"], seed: int = 0, limit: int = LIMIT) -> Map:
    """Lay embeddings out by t-SNE after PCA to 50 dimensions; more than ``limit`` rows are sampled.

    With fewer than ten rows t-SNE means nothing: the two main directions are shown instead.
    """
    generator = np.random.default_rng(seed)
    sampled = len(embeddings) > limit
    rows = np.arange(len(embeddings))
    if sampled:
        rows = np.sort(generator.choice(len(embeddings), limit, replace=False))
    chosen = np.asarray(embeddings[rows], np.float32)
    reduced = _main_directions(chosen, 50)
    if len(chosen) < 10:
        places = np.zeros((len(chosen), 2), np.float32)
        places[:, : min(2, reduced.shape[1])] = reduced[:, :2]
        return Map(
            rows, _unit_square(places), f"the two main directions of {len(chosen)} embeddings", sampled
        )
    perplexity = min(30, (len(chosen) - 1) // 3)
    manifold = require("sklearn.manifold", "train")
    # Only the start is scaled as t-SNE wants it: a spread of 1e-4 along the first direction.
    start = reduced[:, :2] / max(float(reduced[:, 0].std()), 1e-12) * 1e-4
    if start.shape[1] < 2 or float(start[:, 1].std()) == 0.0:
        start = (generator.standard_normal((len(chosen), 2)) * 1e-4).astype(np.float32)
    solver = manifold.TSNE(
        perplexity=perplexity, init=start, random_state=seed, learning_rate="auto", max_iter=STEPS
    )
    # One thread: its many short steps gain little from more, lose much on a busy machine, round differently.
    with require("threadpoolctl", "train").threadpool_limits(1):
        places = solver.fit_transform(reduced)
    of = f"{len(chosen):,} of {len(embeddings):,}" if sampled else f"{len(chosen):,}"
    steps = "PCA to 50 dimensions, then t-SNE" if embeddings.shape[1] > 50 else "t-SNE"
    method = f"{steps} of {of} embeddings, perplexity {perplexity}, seed {seed}"
    return Map(rows, _unit_square(places), method, sampled)


def _main_directions(rows: Float32[np.ndarray, "n dim"], count: int) -> Float32[np.ndarray, "n reduced"]:
    """Project centred rows onto their main directions (PCA), the sign of each fixed."""
    centred = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    kept = vectors[:, np.argsort(-values)[: min(count, rows.shape[1])]]
    strongest = np.abs(kept).argmax(axis=0)
    kept = kept * np.sign(kept[strongest, np.arange(kept.shape[1])])
    return (centred @ kept).astype(np.float32)


def _unit_square(places: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"]:
    """Move and scale places into [0, 1] without changing their shape."""
    low, high = places.min(axis=0), places.max(axis=0)
    side = max(float((high - low).max()), 1e-12)
    return ((places - (low + high) / 2) / side + 0.5).astype(np.float32)
