"""Hard mining: each anchor's farthest positive and nearest negative."""

from typing import Literal

from torch import Tensor

from nearfar.mining.registry import register_rule
from nearfar.pairs import Pairs
from nearfar.similarity import ArgMax


@register_rule(table=True)
def hard(
    pairs: Pairs,
    *,
    keep_positives: Literal["hard", "all"] = "hard",
    keep_negatives: Literal["hard", "all"] = "hard",
) -> Pairs:
    """Keep, for each anchor, its least similar positive and its most similar negative.

    Among equals one is taken. An anchor lacking either keeps what it has.

    Args:
        keep_positives: "all" keeps every positive.
        keep_negatives: "all" keeps every negative.

    Reference:
        Hermans et al., 2017, eq. 5 ("batch hard"). https://arxiv.org/abs/1703.07737
    """
    keep = farthest_positive(pairs) if keep_positives == "hard" else None
    if keep_negatives == "all":
        return pairs.narrow(positives=keep)
    (nearest,) = pairs.stream(ArgMax())
    return pairs.narrow(positives=keep, columns=nearest[:, None])


def farthest_positive(pairs: Pairs) -> Tensor:
    """Say, as ``narrow`` takes it, which positive pair is its anchor's least similar one."""
    return pairs.least(pairs.positives.plain)


def nearest_positive(pairs: Pairs) -> Tensor:
    """Say, as ``narrow`` takes it, which positive pair is its anchor's most similar one."""
    return pairs.least(-pairs.positives.plain)
