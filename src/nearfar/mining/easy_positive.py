"""Easy positive mining: each anchor's nearest positive against a hard negative."""

from typing import Literal

from nearfar.mining.hard import nearest_positive
from nearfar.mining.registry import register_rule
from nearfar.pairs import Pairs
from nearfar.similarity import ArgMax


@register_rule(table=True)
def easy_positive(pairs: Pairs, *, keep_negatives: Literal["semi_hard", "hard"] = "semi_hard") -> Pairs:
    """Keep, for each anchor, its most similar positive p and one negative.

        n = argmax { s_in : s_in < s_ip }      semi_hard
        n = argmax s_in                        hard

    An anchor without such a pair of p and n keeps nothing. Pulling only the nearest positive lets a class
    with several looks keep several clusters.

    Args:
        keep_negatives: "semi_hard" takes the nearest negative that is farther than p, "hard" the nearest one.

    Reference:
        Xuan et al., WACV 2020, section 3 (EPSHN and EPHN). https://arxiv.org/abs/1904.04370
    """
    s = pairs.positives.plain
    nearest = pairs.per_anchor(s, "max")
    (column,) = pairs.stream(ArgMax(below=nearest) if keep_negatives == "semi_hard" else ArgMax())
    column = column.masked_fill(pairs.positive_count == 0, -1)
    pairs = pairs.narrow(positives=nearest_positive(pairs), columns=column[:, None])
    return pairs.narrow(positives=pairs.of_anchor(column) >= 0)
