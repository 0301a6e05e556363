"""Deal classes to batches so that an epoch shows every image at least once."""

import numpy as np
from jaxtyping import Float64, Int64

from nearfar.data.samplers.members import Members


class Deal:
    """Each class is dealt all its hands; classes are drawn in proportion to the hands they have left."""

    name = "pk"

    def __init__(self, members: Members) -> None:
        self.members = members
        self.length = shortest(members.hands, members.classes_per_batch)

    def classes(self, random: np.random.Generator) -> Int64[np.ndarray, "step place"]:
        """Return the classes of each batch of an epoch."""
        return deal(self.members.hands, self.members.classes_per_batch, self.length, random)


def shortest(hands: Int64[np.ndarray, " item"], places: int) -> int:
    """Return how many batches it takes to deal all hands, ``places`` a batch and none twice in one."""
    # An item gives one hand to a batch, so the largest may decide how many batches there are.
    return int(max(-(-hands.sum() // places), hands.max()))


def deal(
    hands: Int64[np.ndarray, " item"], places: int, length: int, random: np.random.Generator
) -> Int64[np.ndarray, "step place"]:
    """Return the items of each batch, all different, so that every item is dealt all its hands.

    When they run out before the batches do, the places left are given to items drawn evenly.
    """
    left: Float64[np.ndarray, " item"] = hands.astype(np.float64)
    chosen = np.empty((length, places), dtype=np.int64)
    for step in range(length):
        # Weighted draw without replacement: the largest log(u) / weight. An item with as many hands left
        # as there are batches must be in each of them; there are never more of these than places, because
        # the hands left fit the places left and each such item fills one place of every batch.
        with np.errstate(divide="ignore"):
            keys = np.log(random.random(len(left))) / left
        spare = np.flatnonzero(left == 0)
        keys[spare] = -np.inf
        keys[left >= length - step] = np.inf
        wanted = min(places, len(left) - len(spare))
        taken = np.argpartition(-keys, wanted - 1)[:wanted] if wanted else spare[:0]
        left[taken] -= 1
        filling = random.choice(spare, places - wanted, replace=False)
        chosen[step] = random.permutation(np.concatenate([taken, filling]))
    return chosen
