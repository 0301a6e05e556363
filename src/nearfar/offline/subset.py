"""Which images to embed when not all can be."""

import numpy as np
from jaxtyping import Int64

from nearfar.errors import DataError


def subset(labels: Int64[np.ndarray, " image"], most: int, *, seed: int = 0) -> Int64[np.ndarray, " row"]:
    """Choose at most ``most`` images, as many of each class as fit, and two at least of each class chosen.

    Every class has the same number unless it has fewer images; where not even two of each fit, whole classes
    are left out. Random, and the same for the same seed.

    Args:
        labels: class of each image.
        most: how many images to choose, 4 or more.
        seed: of the draw.

    Returns:
        Rows in rising order; all of them where they fit.

    Raises:
        DataError: if ``most`` is below 4.
    """
    if most < 4:
        raise DataError(f"{most} images are too few to mine; take 4 or more: two of each of two classes.")
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise DataError(f"labels has shape {labels.shape}; give one class for each image, [n].")
    if len(labels) <= most:
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    _, label, sizes = np.unique(labels[order], return_inverse=True, return_counts=True)
    by_class = np.argsort(label, kind="stable")
    place = np.empty(len(labels), np.int64)
    place[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    each = 2
    while np.minimum(sizes, each + 1).sum() <= most:
        each += 1
    chosen = place < each
    if chosen.sum() > most:
        shuffled = random.permutation(len(sizes))
        fits = np.cumsum(np.minimum(sizes[shuffled], each)) <= most
        chosen &= np.isin(label, shuffled[fits])
    return np.sort(order[chosen])
