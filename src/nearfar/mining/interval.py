"""The negatives, and the positives, whose similarity lies in a given interval."""

from math import inf

import torch

from nearfar.errors import NearfarError
from nearfar.mining.registry import register_rule
from nearfar.pairs import Pairs


@register_rule(table=True)
def interval(
    pairs: Pairs,
    *,
    above: float | None = None,
    below: float | None = None,
    positives_above: float | None = None,
    positives_below: float | None = None,
) -> Pairs:
    """Keep negatives with above < s < below, and positives likewise; None leaves a side open.

    With a Euclidean measure s is the negated distance: distances from 0.5 to 1.4 are ``above=-1.4,
    below=-0.5``.

    Args:
        above: similarity that a negative must exceed, such as 0.3 to leave out those that teach nothing.
        below: similarity that a negative must stay under, such as 0.9 to leave out what may be mislabelled.
        positives_above: similarity that a positive must exceed.
        positives_below: similarity that a positive must stay under.

    Raises:
        NearfarError: if no bound is given or nothing lies between two of them.
    """
    bounds = [(above, below), (positives_above, positives_below)]
    if all(bound is None for pair in bounds for bound in pair):
        raise NearfarError("interval needs a bound: above, below, positives_above or positives_below.")
    for low, high in bounds:
        if low is not None and high is not None and low >= high:
            raise NearfarError(
                f"no similarity lies above {low} and below {high}; give the smaller one first."
            )
    s = pairs.positives.plain
    low = -inf if positives_above is None else positives_above
    high = inf if positives_below is None else positives_below
    return pairs.narrow(
        positives=(s > low) & (s < high),
        above=None if above is None else torch.full_like(pairs.positive_count, above),
        below=None if below is None else torch.full_like(pairs.positive_count, below),
    )
