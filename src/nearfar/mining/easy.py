"""Easy mining: each anchor's nearest positive and farthest negative."""

from typing import Literal

from jaxtyping import Int
from torch import Tensor

from nearfar.mining.hard import nearest_positive
from nearfar.mining.registry import register_rule
from nearfar.mining.rounding import slack
from nearfar.pairs import Pairs
from nearfar.similarity import ArgMax, Min


@register_rule(table=True)
def easy(
    pairs: Pairs,
    *,
    keep_positives: Literal["easy", "all"] = "easy",
    keep_negatives: Literal["easy", "all"] = "easy",
) -> Pairs:
    """Keep, for each anchor, its most similar positive and its least similar negative.

    Among equals one is taken. An anchor lacking either keeps what it has. With only the positives easy
    (``keep_negatives="all"``) a class may fall into several clusters. For the nearest positive with a hard
    negative see ``easy_positive``.

    Args:
        keep_positives: "all" keeps every positive.
        keep_negatives: "all" keeps every negative.
    """
    keep = nearest_positive(pairs) if keep_positives == "easy" else None
    if keep_negatives == "all":
        return pairs.narrow(positives=keep)
    return pairs.narrow(positives=keep, columns=farthest_negative(pairs)[:, None])


def farthest_negative(pairs: Pairs) -> Int[Tensor, " anchor"]:
    """Return each anchor's least similar negative, one of equals; -1 where it has none."""
    (lowest,) = pairs.stream(Min())
    (column,) = pairs.stream(ArgMax(below=lowest.detach() + slack(pairs)))
    return column
