"""Reductions over the few negatives that mining has named, for each anchor or for each positive pair."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.kept import Chosen, Positives
from nearfar.positive_table import PositiveTable
from nearfar.similarity import ArgMax, Block, OrderStatistic, Reduction, Sample, TopK
from nearfar.similarity.dense.closed import Asked, reduced
from nearfar.similarity.dense.matrix import DenseBlock
from nearfar.similarity.dense.reduce import order_statistic
from nearfar.similarity.interval import Interval
from nearfar.similarity.reductions import Per, flat

Few = tuple[Int[Tensor, "row k"], Float[Tensor, "row k"], Tensor]
"""(columns, similarities, which of them count), a row for each value that a reduction gives"""


def reduce(
    block: Block,
    interval: Interval,
    chosen: Chosen,
    kept: Positives,
    reductions: Sequence[Reduction],
) -> tuple[Tensor, ...]:
    """Reduce the negatives that are chosen and lie in the interval; see ``Block.stream``."""
    few = {per: _few(block, interval, chosen, kept, per) for per in {r.per for r in reductions}}
    found = []
    for reduction in reductions:
        value = _reduced(*few[reduction.per], reduction)
        if reduction.per == "positive" and isinstance(kept, PositiveTable):
            value = value.view(*kept.absent.shape, *value.shape[1:])
        found.append(value)
    return tuple(found)


def _few(block: Block, interval: Interval, chosen: Chosen, kept: Positives, per: Per) -> Few:
    if per == "candidate":
        raise NearfarError(
            "this loss reduces over each candidate's anchors, which mining that chooses a few negatives "
            "for each anchor does not leave; use a rule that narrows by similarity, or none."
        )
    columns = chosen.columns
    if isinstance(kept, PositiveTable):
        if chosen.per == "positive":
            columns = columns.flatten(1).masked_fill(kept.absent, -1)
            columns = columns if per == "positive" else _each_once(columns)
        if not columns.shape[1]:
            columns = columns.new_full((len(columns), 1), -1)
        s = _at(block, columns)
        keep = columns >= 0
        if interval:
            keep = keep & interval.holds(s)
        if per == "anchor":
            return columns, s, keep
        if chosen.per == "positive":
            return columns.reshape(-1, 1), s.reshape(-1, 1), keep.reshape(-1, 1)
        each = kept.absent.shape[1]
        if each == 1:
            return columns, s, keep
        columns, s, keep = (x[:, None].expand(-1, each, -1).flatten(0, 1) for x in (columns, s, keep))
        return columns, s, keep
    rows = torch.arange(len(block), device=columns.device)
    if per == "positive":
        rows = kept.anchor
        columns = columns[rows] if chosen.per == "anchor" else columns
    elif chosen.per == "positive":
        columns = _distinct(columns[:, 0], kept, len(block))
    if columns.shape[1] == 0:
        columns = columns.new_full((len(columns), 1), -1)
    anchor = rows[:, None].expand_as(columns)
    s = block.at(anchor.reshape(-1), columns.clamp_min(0).reshape(-1)).view(columns.shape)
    return columns, s, (columns >= 0) & interval.holds(s, rows)


def _at(block: Block, columns: Int[Tensor, "anchor k"]) -> Float[Tensor, "anchor k"]:
    assert isinstance(block, DenseBlock), "a table of positives is of a block that has all similarities"
    return block.named(columns.clamp_min(0))


def _each_once(columns: Int[Tensor, "anchor k"]) -> Int[Tensor, "anchor k"]:
    """Return columns in order, -1 in place of what comes again."""
    ordered = columns.sort(1).values
    again = torch.nn.functional.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0))
    return ordered.masked_fill(again, -1)


def _distinct(partner: Int[Tensor, " positive"], kept: Positives, n: int) -> Int[Tensor, "anchor k"]:
    """List each anchor's distinct partners, padded with -1; on the host, which must know how many."""
    owner, column = torch.stack([kept.anchor, partner]).cpu().numpy()
    there = column >= 0
    m = 1 + column.max(initial=0)
    pair = np.unique(owner[there] * m + column[there])
    anchor, column = pair // m, pair % m
    count = np.bincount(anchor, minlength=n)
    columns = np.full((n, count.max(initial=0)), -1, dtype=np.int64)
    columns[anchor, np.arange(len(pair)) - (count.cumsum() - count)[anchor]] = column
    return torch.from_numpy(columns).to(partner.device)


def _reduced(columns: Tensor, s: Tensor, keep: Tensor, reduction: Reduction) -> Tensor:
    if isinstance(reduction, OrderStatistic) and reduction.over == "batch":
        return order_statistic(s.detach().view(1, -1), keep.view(1, -1), reduction.rank).expand(len(s))
    (result,) = reduced(s, [Asked(flat(reduction), ~keep)])
    if isinstance(reduction, ArgMax | TopK | Sample):
        place = result[:, None] if result.ndim == 1 else result
        found = columns.gather(1, place.clamp_min(0)).masked_fill(place < 0, -1)
        return found.view(result.shape)
    return result
