"""From one value per anchor to one number: what a loss is made of, and how it is averaged."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nearfar.once import once

Reduction = Literal["mean", "mean_valid", "mean_terms", "mean_active", "tilted", "sum", "none"]


@dataclass(eq=False)
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

    @staticmethod
    def counted(
        total: Float[Tensor, " anchor"],
        count: Callable[[], Float[Tensor, " anchor"]],
        active: Callable[[], Float[Tensor, " anchor"]],
    ) -> "Terms":
        """Return terms that are counted where it matters: without gradient, of ``Pairs.plain``."""
        return _Counted(total, count, active)

    def detach(self) -> "Terms":
        """Return the same terms without gradient."""
        return Terms(*(x.detach() if x.requires_grad else x for x in (self.total, self.count, self.active)))

    def reduce(
        self, how: Reduction, weights: Float[Tensor, " anchor"] | None = None, tilt: float = 1.0
    ) -> Tensor:
        """Average the anchors' values L_i, with weights w_i (1 when not given).

            none         w_i L_i, one value per anchor
            sum          Σ w_i L_i
            mean         Σ w_i L_i / Σ w_i                  over all anchors
            mean_valid   Σ w_i L_i / Σ w_i [count_i > 0]    over anchors that have what the loss needs
            mean_terms   Σ w_i L_i / Σ w_i count_i          over all terms
            mean_active  Σ w_i L_i / Σ w_i active_i         over terms that are not zero
            tilted       1/t log(Σ w_i exp(t L_i) / Σ w_i)  over anchors with count_i > 0, t the ``tilt``

        The gradient of "tilted" is Σ v_i ∇L_i with weights v_i ∝ w_i exp(t L_i) that sum to 1: for t > 0 hard
        samples count more, for t < 0 outliers count less (Li et al., ICLR 2021,
        https://arxiv.org/abs/2007.01162).

        A weight of 2 is the same as having the anchor twice. With nothing to divide by, the value is 0.
        """
        if how == "none":
            return self.total if weights is None else self._weights(weights) * self.total
        if how == "tilted":
            return self._tilted(self._weights(weights), tilt)
        if weights is None and how in ("sum", "mean"):
            return self.total.mean() if how == "mean" and self.total.numel() else self.total.sum()
        value, share = self.fraction(how, weights)
        return value if how == "sum" else value / share.masked_fill(share == 0, 1.0)

    def fraction(
        self, how: Reduction, weights: Float[Tensor, " anchor"] | None = None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return Σ w_i L_i and what ``reduce`` divides it by."""
        match how:
            case "mean_valid":
                share = (self.count > 0).to(self.total.dtype)
            case "mean_terms":
                share = self.count
            case "mean_active":
                share = self.active
            case _:
                share = torch.ones_like(self.total)
        if weights is None:
            return self.total.sum(), share.sum()
        w = self._weights(weights)
        return (w * self.total).sum(), (w * share).sum()

    def _weights(self, given: Float[Tensor, " anchor"] | None) -> Float[Tensor, " anchor"]:
        return self.total.new_ones(len(self.total)) if given is None else given.to(self.total)

    def _tilted(self, weights: Tensor, tilt: float) -> Tensor:
        some = (self.count > 0) & (weights > 0)
        log_weight = torch.where(some, weights, 1.0).log()
        z = torch.where(some, tilt * self.total + log_weight, -torch.inf)
        mass = torch.where(some, weights, 0.0).sum()
        # Where nothing counts, neither logarithm is taken, and the value is 0.
        z, mass = torch.where(some.any(), z, 0.0 * self.total), torch.where(some.any(), mass, 1.0)
        return (torch.where(some.any(), torch.logsumexp(z, 0), 0.0) - mass.log()) / tilt


class Values(Terms):
    """One value for each anchor: a term where the anchor has what the loss needs.

    Attributes:
        valid: says which anchors have, from their values; asked where it matters.
    """

    valid: Callable[[Tensor], Bool[Tensor, " anchor"]]

    def __init__(
        self, total: Float[Tensor, " anchor"], valid: Callable[[Tensor], Bool[Tensor, " anchor"]]
    ) -> None:
        self.total, self.valid = total, valid

    @once
    def count(self) -> Float[Tensor, " anchor"]:  # pyrefly: ignore[bad-override]
        """1 where the value counts, else 0."""
        return self.valid(self.total.detach()).to(self.total.dtype)

    @once
    def active(self) -> Float[Tensor, " anchor"]:  # pyrefly: ignore[bad-override]
        """1 where the value is not 0, else 0."""
        return (self.total.detach() != 0).to(self.total.dtype)

    def detach(self) -> "Values":
        """Return the same values without gradient."""
        return Values(self.total.detach(), self.valid)


class _Counted(Terms):
    def __init__(self, total: Tensor, count: Callable[[], Tensor], active: Callable[[], Tensor]) -> None:
        self.total, self._counts, self._actives = total, count, active

    @once
    def count(self) -> Tensor:  # pyrefly: ignore[bad-override]
        return self._counts()

    @once
    def active(self) -> Tensor:  # pyrefly: ignore[bad-override]
        return self._actives()

    def detach(self) -> Terms:
        return _Counted(self.total.detach(), self._counts, self._actives)
