"""Semi-hard mining: for each positive pair, the nearest negative that is farther than the positive."""

from typing import Literal

import torch

from nearfar.errors import NearfarError
from nearfar.mining.easy import farthest_negative
from nearfar.mining.registry import register_rule
from nearfar.mining.rounding import slack
from nearfar.pairs import Pairs
from nearfar.similarity import ArgMax, Max


@register_rule(table=True)
def semi_hard(pairs: Pairs, *, margin: float = 0.2, otherwise: Literal["drop", "farthest"] = "drop") -> Pairs:
    """Keep triplets whose negative is farther than the positive, but by less than the margin.

    For the positive pair (i, p), with s the similarity (the negated distance of a Euclidean measure):

        n = argmax { s_in : s_in < s_ip },   kept when s_in > s_ip - m

    Args:
        margin: m (> 0); the loss's own margin unless given.
        otherwise: "drop" leaves out a pair without such a negative (FaceNet's text). "farthest" ignores the
            margin and, where no negative is farther than the positive, takes the farthest negative there is
            (TensorFlow's reading).

    Reference:
        Schroff et al., CVPR 2015, section 3.2. https://arxiv.org/abs/1503.03832
    """
    if margin <= 0:
        raise NearfarError(f"semi_hard needs a positive margin; got {margin}.")
    pairs = pairs.short()
    s = pairs.positives.plain
    # What differs by rounding alone is equal: a copy of the positive in another class is not farther.
    below = s - pairs.of_anchor(slack(pairs))
    value, column = pairs.stream(Max(below=below, per="positive"), ArgMax(below=below, per="positive"))
    if otherwise == "drop":
        return pairs.narrow(positives=(column >= 0) & (value > s - margin), partners=column)
    column = torch.where(column < 0, pairs.of_anchor(farthest_negative(pairs)), column)
    return pairs.narrow(positives=column >= 0, partners=column)
