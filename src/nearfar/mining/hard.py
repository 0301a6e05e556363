"""Hard mining: each anchor's farthest positive and nearest negative."""

import torch

from nearfar.mining.registry import register_rule
from nearfar.pairs import Pairs
from nearfar.similarity import ArgMax


@register_rule
def hard(pairs: Pairs) -> Pairs:
    """Keep, for each anchor, its least similar positive and its most similar negative.

    Among equals the first in the order of the candidates is taken. An anchor lacking either keeps what it
    has.

    Reference:
        Hermans et al., 2017, eq. 5 ("batch hard"). https://arxiv.org/abs/1703.07737
    """
    (nearest,) = pairs.stream(ArgMax())
    return pairs.narrow(positives=farthest_positive(pairs), columns=nearest[:, None])


def farthest_positive(pairs: Pairs) -> torch.Tensor:
    """Say which positive pair is its anchor's least similar one, the first among equals: bool [positive]."""
    anchor, s = pairs.positives.anchor, pairs.positives.similarity.detach()
    least = torch.nonzero(s == pairs.per_anchor(s, "min")[anchor]).squeeze(1)
    first = torch.full((len(pairs),), len(s), device=s.device)
    first = first.scatter_reduce(0, anchor[least], least, "amin")
    keep = torch.zeros_like(s, dtype=torch.bool)
    keep[first[first < len(s)]] = True
    return keep
