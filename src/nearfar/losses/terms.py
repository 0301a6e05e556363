"""From one value per anchor to one number: what a loss is made of, and how it is averaged."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.pairs import Pairs
from nearfar.similarity import Count, Sum

Reduction = Literal["mean", "mean_valid", "mean_terms", "mean_active", "sum", "none"]


@dataclass(frozen=True, eq=False)
class Terms:
    """What each anchor contributes, for a loss that is a sum of terms (pairs, triplets).

    Attributes:
        total: sum of the anchor's terms; carries the gradient.
        count: how many terms it has.
        active: how many of them are not zero.
    """

    total: Float[Tensor, " anchor"]
    count: Float[Tensor, " anchor"]
    active: Float[Tensor, " anchor"]

    def reduce(self, how: Reduction, weights: Float[Tensor, " anchor"] | None = None) -> Tensor:
        """Average the anchors' values L_i, with weights w_i (1 when not given).

            none         w_i L_i, one value per anchor
            sum          Σ w_i L_i
            mean         Σ w_i L_i / Σ w_i                  over all anchors
            mean_valid   Σ w_i L_i / Σ w_i [count_i > 0]    over anchors that have what the loss needs
            mean_terms   Σ w_i L_i / Σ w_i count_i          over all terms
            mean_active  Σ w_i L_i / Σ w_i active_i         over terms that are not zero

        A weight of 2 is the same as having the anchor twice. With nothing to divide by, the value is 0.
        """
        w = self.total.new_ones(len(self.total)) if weights is None else weights.to(self.total)
        if how == "none":
            return w * self.total
        value = (w * self.total).sum()
        if how == "sum":
            return value
        share = {
            "mean": w,
            "mean_valid": w * (self.count > 0),
            "mean_terms": w * self.count,
            "mean_active": w * self.active,
        }[how].sum()
        return value / share.masked_fill(share == 0, 1.0)


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a loss saw in its last batch; computed when read, without gradient.

    Attributes:
        terms: the terms of the batch.
        pairs: its comparisons, before mining; None for a batch that was taken some anchors at a time.
        mined: whether a rule chose among them.
    """

    terms: Terms
    pairs: Pairs | None
    mined: bool

    @cached_property
    def active(self) -> Float[Tensor, ""]:
        """Share of terms that are not zero, in [0, 1]; NaN when there are none.

        Mining keeps few terms, most of them not zero: then the share of anchors that have such a term.
        """
        if self.mined:
            return (self.terms.active > 0).to(self.terms.active).mean()
        return self.terms.active.sum() / self.terms.count.sum()

    @cached_property
    def positive_similarity(self) -> Float[Tensor, ""]:
        """Mean similarity of all positive pairs; NaN when there are none, or too many to list."""
        if self.pairs is None:
            return self.terms.total.new_tensor(torch.nan)
        return self.pairs.positives.similarity.mean()

    @cached_property
    def negative_similarity(self) -> Float[Tensor, ""]:
        """Mean similarity of all negative pairs; NaN when there are none, or too many positives to list."""
        if self.pairs is None:
            return self.terms.total.new_tensor(torch.nan)
        total, count = self.pairs.stream(Sum(), Count())
        return total.sum() / count.sum()
