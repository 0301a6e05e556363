"""Draw the classes of each batch anew: every class equally likely, or every image."""

from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from nearfar.data.samplers.members import Members
from nearfar.errors import DataError

By = Literal["class", "instance"]

# A class this sure to be drawn is drawn always: a draw by steps of 1 could meet it twice by rounding.
CERTAIN = 1 - 1e-9


class Balanced:
    """Each batch is a draw of its own: classes evenly, or in proportion to their images."""

    def __init__(self, members: Members, *, by: By) -> None:
        if by not in ("class", "instance"):
            raise DataError(f"a balanced draw is by 'class' or by 'instance'; got {by!r}.")
        self.name = f"balanced by {by}"
        weight = members.sizes if by == "instance" else np.ones(len(members))
        self.chance = chances(weight.astype(np.float64), members.classes_per_batch)
        self.length = members.batches

    def classes(self, random: np.random.Generator) -> Int64[np.ndarray, "step place"]:
        """Return the classes of each batch of an epoch."""
        return np.stack([draw(self.chance, random) for _ in range(self.length)])


def chances(weight: Float64[np.ndarray, " item"], places: int) -> Float64[np.ndarray, " item"]:
    """Return how likely each item is among ``places`` different ones: in proportion to its weight, at most 1.

    What is cut off above 1 goes to the others, so that the chances add up to ``places``.
    """
    chance = np.zeros(len(weight))
    sure = np.zeros(len(weight), dtype=bool)
    while True:
        room = places - int(sure.sum())
        rest = weight * ~sure
        chance[:] = np.where(sure, 1.0, rest * (room / rest.sum()) if room else 0.0)
        more = ~sure & (chance >= CERTAIN)
        if not more.any():
            return chance
        sure |= more


def draw(chance: Float64[np.ndarray, " item"], random: np.random.Generator) -> Int64[np.ndarray, " place"]:
    """Draw different items, each with exactly its chance.

    The items are laid in random order along a line, each as long as its chance, and every point u + k of
    the line draws the item it falls on (systematic sampling). Drawing one by one in proportion to weights
    would favour small items: a large one cannot be drawn a second time.
    """
    sure = np.flatnonzero(chance == 1)
    order = random.permutation(np.flatnonzero(chance < 1))
    places = round(chance[order].sum())
    ends = np.cumsum(chance[order])
    drawn = np.searchsorted(ends, random.random() + np.arange(places), side="right")
    return random.permutation(np.concatenate([sure, order[np.minimum(drawn, len(order) - 1)]]))
