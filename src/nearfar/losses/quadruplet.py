"""Quadruplet loss: positives nearer than negatives, and than any two others of different classes."""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.chosen import named_negatives, refuse_thresholds
from nearfar.losses.parts.limits import check_not_negative
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.losses.triplet import triplet
from nearfar.pairs import Pairs
from nearfar.similarity import ArgMax, Max, Relation, SameClass
from nearfar.similarity.block import Build
from nearfar.similarity.interval import Interval
from nearfar.similarity.stable import taken


@register_loss(reduction="mean_active", mined="mean_terms", separable=False, table="short", compiles=False)
def quadruplet(pairs: Pairs, *, margin: float = 0.2, second_margin: float = 0.1) -> tuple[Terms, Terms]:
    """Ask that a positive pair be nearer than a negative pair, with the anchor in it and without.

    With s_ij the similarity, m and m₂ the margins, y the classes, P_i the positives and N_i the negatives
    of anchor i, the sum of two means over the triplets:

        L_i = Σ_{p∈P_i} Σ_{n∈N_i} max(0, s_in - s_ip + m)
        L'_i = Σ_{p∈P_i} Σ_{n∈N_i} max(0, h_in - s_ip + m₂),   h_in = max { s_nl : y_l ≠ y_n, y_l ≠ y_i }

    The paper's second term runs over all pairs (n, l) of two further classes; here each n brings its nearest
    l, which is the pair that decides whether the largest distance within a class is under the smallest one
    between two others: what the term is for. So both terms are sums over triplets, and neither triplets nor
    the matrix are stored. l is an anchor (of the batch, when the candidates are a memory). With
    ``mining="hard"`` p is each anchor's farthest positive, n its nearest negative, and l as above.

    With a Euclidean measure s is the negated distance; the paper learns its metric with the network.

    Rows of one id are taken to be of one class.

    Args:
        margin: m (>= 0), in units of the similarity.
        second_margin: m₂ (>= 0). The paper's is half of m: the second constraint is the weaker one.

    Returns:
        Two sets of terms, one of each per triplet; 0 for an anchor without positives or without negatives,
        and the second is 0 where there is no third class.

    Raises:
        NearfarError: if a margin is negative, the labels are not classes, or thresholds have mined.

    Reference:
        Chen et al., CVPR 2017. https://arxiv.org/abs/1704.01719
    """
    check_not_negative(margin=margin, second_margin=second_margin)
    kinship = pairs.block.relation.kinship
    if not isinstance(kinship, SameClass):
        raise NearfarError("quadruplet looks for a third and fourth class: labels must be classes [n].")
    refuse_thresholds(pairs, "quadruplet")
    first = triplet(pairs, margin=margin)
    limit = pairs.positives.similarity - second_margin
    apart, active, count = _fourth(pairs, kinship, limit)
    second = Terms(
        total=pairs.per_anchor(apart, "sum"),
        count=pairs.per_anchor(count, "sum"),
        active=pairs.per_anchor(active, "sum"),
    )
    return first, second


def _fourth(
    pairs: Pairs, kinship: SameClass, limit: Float[Tensor, "*positive"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ_n max(0, h_in - limit), how many of these terms are not zero, and how many there are."""
    nearest, other, via = _nearest(pairs, kinship)
    own = taken(kinship.anchors, pairs.positives.anchor)
    columns = named_negatives(pairs)
    if columns is not None:
        n = columns.clamp_min(0)
        h = torch.where(taken(via, n) == own[..., None], taken(other, n), taken(nearest, n))
        there = (columns >= 0) & (h > -torch.inf)
        apart = (h - limit[..., None]).relu() * there
        return apart.sum(-1), (apart > 0).to(apart).sum(-1), there.to(apart).sum(-1)
    # Over all n, less those of the anchor's class; where the nearest l is of that class, the next one.
    flat, group = limit.flatten(), own.flatten()
    every = _hinges(nearest, torch.zeros_like(via), flat, torch.zeros_like(group))
    same = _hinges(nearest, kinship.candidates, flat, group)
    wrong, right = _hinges(nearest, via, flat, group), _hinges(other, via, flat, group)
    parts = zip(every, same, wrong, right, strict=True)
    apart, active, count = ((a - b - c + d).to(limit.dtype).view(limit.shape) for a, b, c, d in parts)
    return apart, active, count


def _nearest(pairs: Pairs, kinship: SameClass) -> tuple[Tensor, Tensor, Tensor]:
    """For each candidate: its nearest anchor of another class, of yet another class, and the former's class.

    -inf where there is none.
    """
    block, none = pairs.block, pairs.positives.anchor.flatten()[:0]
    nearest, row = block.stream(Interval(), none, (Max(per="candidate"), ArgMax(per="candidate")))
    if not len(kinship.anchors):
        return nearest, nearest, row
    via = kinship.anchors[row.clamp_min(0)]
    # Equal ids are never compared: this leaves out the class of the nearest.
    further = Relation(kinship, block.relation.own, kinship.anchors, via)
    measure = "dot" if block.measure == "cosine" else block.measure
    given, stored = block.parts
    again = cast(Build, type(block))(block.anchors, given, measure, further, stored)
    (other,) = again.stream(Interval(), none, (Max(per="candidate"),))
    return nearest, other, via


def _hinges(
    values: Float[Tensor, " candidate"],
    groups: Int[Tensor, " candidate"],
    limits: Float[Tensor, " positive"],
    limit_groups: Int[Tensor, " positive"],
) -> tuple[Tensor, Tensor, Tensor]:
    """For each limit t: Σ max(0, v - t) over the values of its group, how many v > t, and how many v.

    Values and limits are sorted together, by group and then by size: what is above a limit is what follows
    it. Values of -inf are no values. Sums are in float64, since they are differences of running sums.
    """
    there = values > -torch.inf
    values = values.double().masked_fill(~there, 0.0)
    size, group = torch.cat([values, limits.double()]), torch.cat([groups, limit_groups])
    is_value = torch.cat([there, torch.zeros_like(limits, dtype=torch.bool)]).double()
    # A value that equals a limit comes before it: it is not above it.
    order = torch.argsort(size.detach(), stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    is_value = is_value[order]
    total = torch.cat([values.new_zeros(1), (size[order] * is_value).cumsum(0)])
    number = torch.cat([values.new_zeros(1), is_value.cumsum(0)])
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    place, ordered = place[len(values) :], group[order]
    start = torch.searchsorted(ordered, limit_groups)
    end = torch.searchsorted(ordered, limit_groups, right=True)
    above = number[end] - number[place]
    return taken(total, end) - taken(total, place) - above * limits, above, number[end] - number[start]
