"""Angular loss: the angle at the negative, instead of distances, bounded for every positive pair."""

from functools import partial
from math import radians, tan
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.chosen import from_anchor, from_positive, named_negatives, refuse_thresholds
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.pairs import Pairs
from nearfar.similarity import Block, LogSumExp, SameClass, softplus
from nearfar.similarity.block import Build
from nearfar.similarity.interval import Interval
from nearfar.similarity.stable import logsumexp, taken
from nearfar.similarity.stored import Columns

Listed = Int[np.ndarray, " positive"]


@register_loss(reduction="mean_terms", needs="positive", table=True, compiles=False)
def angular(pairs: Pairs, *, alpha: float = 40.0) -> Terms:
    """Keep the angle at which a negative sees a positive pair below α.

    With x unit vectors, P_i the positives and N_i the negatives of anchor i:

        f_ipn = 4 tan²α (x_i + x_p)·x_n - 2 (1 + tan²α) x_i·x_p
        L_i = Σ_{p∈P_i} log(1 + Σ_{n∈N_i} exp(f_ipn))

    averaged over the positive pairs. The paper draws pairs of distinct classes and takes one negative of
    each other class; here all negatives count. A positive pair is one virtual anchor x_i + x_p, so that
    this costs as many rows of comparisons as there are positive pairs, each row once; none are stored.

    Args:
        alpha: α in degrees, between 0 and 90.

    Returns:
        One term per positive pair; 0 for an anchor without positives or without negatives.

    Raises:
        NearfarError: if ``alpha`` is out of range, the similarity is a distance, or thresholds have mined.

    Reference:
        Wang et al., ICCV 2017. https://arxiv.org/abs/1708.01682
    """
    if not 0 < alpha < 90:
        raise NearfarError(f"alpha is an angle between 0 and 90 degrees; got {alpha}.")
    if pairs.measure not in ("cosine", "dot"):
        raise NearfarError(
            f"angular is made of inner products; use similarity='cosine' or 'dot', not {pairs.measure!r}."
        )
    refuse_thresholds(pairs, "angular")
    pairs = pairs.as_list() if pairs.chosen is None else pairs.short()
    square = tan(radians(alpha)) ** 2
    push = _negatives(pairs, 4 * square)
    value = softplus(push - 2 * (1 + square) * pairs.positives.similarity)
    return Terms(
        total=pairs.per_anchor(value, "sum"),
        count=pairs.per_anchor((push > -torch.inf).to(value), "sum"),
        active=pairs.per_anchor((value != 0).to(value), "sum"),
    )


def _negatives(pairs: Pairs, scale: float) -> Float[Tensor, "*positive"]:
    """log Σ_{n∈N_i} exp(a (x_i + x_p)·x_n) for each positive pair (i, p)."""
    columns = named_negatives(pairs)
    if columns is not None:
        both = from_anchor(pairs, columns) + from_positive(pairs, columns)
        there = (columns >= 0).flatten(0, -2)
        return logsumexp(scale * both.flatten(0, -2), there).view(columns.shape[:-1])
    anchor, candidate, back = _distinct(pairs)
    device = pairs.block.anchors.device
    turns = [
        tuple(torch.from_numpy(x).to(device) for x in (turn, anchor[turn], candidate[turn]))
        for turn in _turns(anchor, len(pairs))
    ]
    push = _Virtual.apply(pairs.block.anchors, pairs.block.parts[0], pairs.block, scale, turns)
    return push if back is None else taken(push, torch.from_numpy(back).to(device))


def _distinct(pairs: Pairs) -> tuple[Listed, Listed, Listed | None]:
    """List the positive pairs, (i, p) and (p, i) once where both have the same negatives.

    Returns:
        Anchors and candidates ordered by anchor, and where each positive pair is in them; on the host, which
        lists one turn after the other.
    """
    anchor, candidate = pairs.positives.on_host
    relation = pairs.block.relation
    if not (relation.symmetric and relation.anchor_ids is None and isinstance(relation.kinship, SameClass)):
        return anchor, candidate, None
    n = max(1, len(pairs))
    ends = np.minimum(anchor, candidate) * n + np.maximum(anchor, candidate)
    pair, back = np.unique(ends, return_inverse=True)
    return pair // n, pair % n, back


class _Virtual(torch.autograd.Function):
    """The reduction for some virtual anchors after others; each turn is made again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        candidates: Tensor,
        block: Block,
        scale: float,
        turns: list[tuple[Tensor, Tensor, Tensor]],
    ) -> Tensor:
        ctx.save_for_backward(anchors, candidates)
        ctx.reduce, ctx.turns = partial(_reduce, block, scale), turns
        push = anchors.new_empty(sum(len(turn) for turn, _, _ in turns))
        for turn, anchor, candidate in turns:
            push[turn] = ctx.reduce(anchors, candidates, anchor, candidate)
        return push

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyrefly: ignore[bad-override]
        needed = ctx.needs_input_grad[:2]
        inputs = [x.detach().requires_grad_(need) for x, need in zip(ctx.saved_tensors, needed, strict=True)]
        for turn, anchor, candidate in ctx.turns:
            with torch.enable_grad():
                value = ctx.reduce(*inputs, anchor, candidate)
            torch.autograd.backward(value, gradient[turn])
        return *(x.grad for x in inputs), None, None, None


def _reduce(
    block: Block, scale: float, anchors: Tensor, candidates: Tensor, anchor: Tensor, candidate: Tensor
) -> Float[Tensor, " turn"]:
    """log Σ exp(a v·x_n) for the virtual anchors v = x_i + x_p; their negatives are those of i."""
    build, stored = cast(Build, type(block)), block.parts[1]
    other = taken(candidates, candidate) if stored is None else Columns(candidates, stored)[candidate]
    middle = taken(anchors, anchor) + other
    virtual = build(middle, candidates, "dot", block.relation.take(anchor), stored)
    (value,) = virtual.stream(Interval(), anchor[:0], (LogSumExp(scale=scale),))
    return value


def _turns(anchor: Listed, n: int) -> list[Listed]:
    """Split the positive pairs so that an anchor comes once in each part: its first pair, its second, …"""
    count = np.bincount(anchor, minlength=n)
    place = np.arange(len(anchor)) - (count.cumsum() - count)[anchor]
    order = np.argsort(place, kind="stable")
    return np.split(order, np.bincount(place).cumsum()[:-1]) if len(order) else []
