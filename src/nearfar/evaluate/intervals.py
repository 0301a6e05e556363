"""Means over queries, and 95 % percentile intervals by bootstrap."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

Average = Literal["micro", "macro"]
Resample = Literal["class", "query"]


def mean(
    values: Float64[np.ndarray, "query metric"],
    counted: Bool[np.ndarray, " query"],
    classes: Int64[np.ndarray, " query"],
    average: Average,
) -> Float64[np.ndarray, " metric"]:
    """Mean over the queries counted (micro), or mean of the means of their classes (macro)."""
    if average == "micro":
        return values[counted].mean(axis=0)
    sums, sizes = _by_class(values[counted], classes[counted])
    return (sums / sizes[:, None]).mean(axis=0)


def bootstrap_intervals(
    values: Float64[np.ndarray, "query metric"],
    counted: Bool[np.ndarray, " query"],
    classes: Int64[np.ndarray, " query"],
    average: Average,
    resample: Resample,
    times: int,
    seed: int,
) -> Float64[np.ndarray, "metric 2"]:
    """2.5 % and 97.5 % percentiles of the mean over ``times`` resamples.

    Args:
        values: metrics of each query.
        counted: queries that enter the mean.
        classes: class of each query.
        average: micro or macro mean.
        resample: what is drawn with replacement. Images of one class succeed and fail together, so "class"
            draws whole classes with all their queries; "query" draws queries as if they were independent and
            gives intervals that are too narrow.
        times: number of resamples.
        seed: of the draws.

    Returns:
        Low and high end for each metric.
    """
    values, classes = values[counted], classes[counted]
    if resample == "query":
        classes = np.arange(len(values))
    sums, sizes = _by_class(values, classes)
    if average == "macro":
        sums, sizes = sums / sizes[:, None], np.ones(len(sizes))
    generator = np.random.default_rng(seed)
    means = np.empty((times, values.shape[1]))
    for i in range(times):
        drawn = np.bincount(generator.integers(len(sizes), size=len(sizes)), minlength=len(sizes))
        means[i] = drawn @ sums / (drawn @ sizes)
    return np.percentile(means, [2.5, 97.5], axis=0).T


def _by_class(
    values: Float64[np.ndarray, "query metric"], classes: Int64[np.ndarray, " query"]
) -> tuple[Float64[np.ndarray, "class metric"], Float64[np.ndarray, " class"]]:
    _, code = np.unique(classes, return_inverse=True)
    sizes = np.bincount(code).astype(np.float64)
    sums = np.stack([np.bincount(code, weights=column, minlength=len(sizes)) for column in values.T], axis=1)
    return sums, sizes
