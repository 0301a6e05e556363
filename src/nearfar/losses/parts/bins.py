"""Soft histograms of similarities between -1 and 1, and their sums up to each node.

A similarity is shared by the two nodes that it lies between, in proportion to its nearness: the triangular
kernel. Nodes are 2/L apart, node 0 at 1 and node L at -1: nearest first.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.pairs import Pairs
from nearfar.similarity import Count, HingeSum, Reduction


def of_positives(pairs: Pairs, bins: int) -> Float[Tensor, "anchor node"]:
    """Histogram of each anchor's positives."""
    s, anchor = pairs.positives.similarity, pairs.positives.anchor
    one = pairs.of_anchor(s.new_ones(len(pairs)))  # and 0 where a table has no pair
    place = (1 - s) * (bins / 2)
    # What is no number lies in node 0: no index is made of it, and its share is still no number.
    first = place.detach().floor().nan_to_num(0.0).clamp(0, bins - 1)
    share = ((place - first) * one).flatten()
    at = (anchor * (bins + 1) + first.long()).flatten()
    flat = s.new_zeros(len(pairs) * (bins + 1)).index_add(0, at, one.flatten() - share)
    return flat.index_add(0, at + 1, share).view(len(pairs), bins + 1)


def negatives_up_to(
    pairs: Pairs, bins: int, *more: Reduction
) -> tuple[Float[Tensor, "anchor node"], *tuple[Tensor, ...]]:
    """Sums of the histogram of each anchor's negatives, from node 0 to each node; and more of the same pass.

    A kernel summed up to node l is max(0, s - c_{l+1}) less max(0, s - c_l), over 2/L, for the nodes c: so
    that all follows from one hinge for each node.
    """
    nodes = [1 - 2 * k / bins for k in range(1, bins + 1)]
    number, *results = pairs.stream(Count(), *(HingeSum(node) for node in nodes), *more)
    above = torch.stack([torch.zeros_like(number), *results[:bins]], 1)
    # Nothing lies above 1, but for rounding; and of a difference of sums no rounding is to be below 0.
    sums = ((above[:, 1:] - above[:, :-1]) * (bins / 2)).relu()
    return torch.cat([sums, number[:, None]], 1), *results[bins:]
