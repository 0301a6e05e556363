"""How far apart rounding may put two computations of one similarity."""

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.pairs import Pairs
from nearfar.similarity.stored import longest


def slack(pairs: Pairs) -> Float[Tensor, " anchor"]:
    """Return the difference up to which two similarities of an anchor count as equal.

    A backend meets a pair more than once, within products of different shapes, and sums in another order each
    time: s_ij is not s_ji to the last bit, nor is a threshold the number that is compared with it later. The
    difference was measured as 2, 5, 11 and 13 units of rounding for 8, 128, 512 and 2,048 dimensions.
    """
    x = pairs.block.anchors.detach()
    units = (2 + x.shape[1] ** 0.5 / 2) * torch.finfo(x.dtype).eps
    if pairs.measure == "cosine":
        return x.new_full((len(x),), units)
    given, stored = pairs.block.parts
    far = longest(given.detach())
    if stored is not None:
        far = far.clamp_min(stored.longest())
    own = x.norm(dim=1)
    if pairs.measure == "dot":
        size = own * far
    else:
        size = own + far if pairs.measure == "euclidean" else (own + far).square()
    return (units * size).clamp_min(torch.finfo(x.dtype).tiny)
