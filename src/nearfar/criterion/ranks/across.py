"""A loss across ranks: each rank takes its own anchors, the divisor is that of all, gradients go home.

L = Σ_r S_r with S_r the terms of rank r's anchors over the divisor of all ranks. A row of rank r is an anchor
there and a candidate everywhere; dL/dx is the sum of both, over all ranks. All of it is computed in the
forward pass, so that the backward pass waits for no rank. A loss whose anchors do not stand alone is computed
whole by every rank, which then takes the gradient of its own rows.

Engines average parameter gradients over W ranks: (1/W) Σ_r J_rᵀ g_r, with J_r the derivative of rank r's rows
x_r by the parameters. That is Σ_r J_rᵀ dL/dx_r = dL/dθ for g_r = W dL/dx_r, however many rows a rank has. A
parameter φ of the loss, of which every rank has a copy, gets W dS_r/dφ, or dL/dφ where every rank has L.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.criterion.ahead import attach
from nearfar.criterion.alone import Compared, Compute
from nearfar.criterion.ranks.everyone import Everyone
from nearfar.criterion.ranks.shares import shared
from nearfar.distributed import rank, settings, total, world_size
from nearfar.distributed.exchange import of_first, rows_of_all, sent_home
from nearfar.distributed.ring import LeaveRing, Ring
from nearfar.losses.parts.terms import Reduction
from nearfar.similarity.stable import full_precision
from nearfar.similarity.threads import plainly
from nearfar.similarity.tiled.from_ranks import NeedsAll

logger = logging.getLogger("nearfar")


@dataclass(frozen=True, eq=False)
class Across:
    """One call of a loss, on all ranks.

    Attributes:
        whole: every rank computes the whole loss, not only that of its own anchors.
        among_rows: whether rows are compared with rows, and not with classes.
        one_by_one: whether there is a value for each anchor, and not for each class.
        ring: see the rows of one rank at a time, where the loss can be put together from that.
    """

    everyone: Everyone
    whole: bool
    among_rows: bool
    one_by_one: bool
    ring: bool

    @classmethod
    def of(
        cls, everyone: Everyone, separable: bool, among_rows: bool, one_by_one: bool, stored: int = 0
    ) -> "Across":
        """Choose how the ranks go about it: alike on all of them.

        Args:
            separable: whether each anchor's value is its own.
            stored: bytes that a sharded memory takes on a rank that has all.
        """
        large = everyone.bytes_to_gather + stored > settings.budget
        ring = settings.exchange == "ring" or (settings.exchange == "auto" and large)
        return cls(everyone, not separable, among_rows, one_by_one, ring and separable and among_rows)

    @property
    def rows(self) -> Int[Tensor, " row"] | None:
        """The anchors that this rank takes; None for all."""
        return None if self.whole else self.everyone.own

    @cached_property
    def embeddings(self) -> Float[Tensor, "all dim"]:
        """The embeddings of all ranks, without gradient."""
        return rows_of_all(self.everyone.batch.embeddings, self.everyone.counts)

    def of_all(self, given: Float[Tensor, "row dim"]) -> Float[Tensor, "all dim"]:
        """The embeddings of all ranks as they were given, also where they are not finite."""
        same = given is self.everyone.batch.embeddings
        return self.embeddings if same else rows_of_all(given, self.everyone.counts)

    @cached_property
    def candidates(self) -> Float[Tensor, "all dim"] | None:
        """The candidates of all ranks, without gradient."""
        given, counts = self.everyone.batch.candidates, self.everyone.candidate_counts
        return None if given is None or counts is None else rows_of_all(given, counts)

    @contextmanager
    def same_draws(self, drawing: bool) -> Iterator[None]:
        """Draw on every rank what rank 0 draws; its generator alone moves on."""
        if not drawing:
            yield
            return
        before = torch.get_rng_state()
        torch.set_rng_state(of_first(before.to(self.everyone.batch.embeddings.device)).cpu())
        try:
            yield
        finally:
            if rank() > 0:
                torch.set_rng_state(before)

    def value(
        self,
        compute: Compute,
        parameters: Sequence[Tensor],
        how: Reduction,
        weights: Float[Tensor, " anchor"] | None,
        tilt: float,
        listed: Callable[[], bool | Tensor],
    ) -> tuple[Tensor, bool | Tensor]:
        """Return the loss of all ranks' batches, with the gradient for what this rank has given.

        Args:
            parameters: of the loss, the same on every rank.
            weights: of the anchors that this rank takes.
            listed: whether this rank has found positive pairs; whether any has is returned.
        """
        how_many = (how, weights, tilt)
        if self.ring:
            before = torch.get_rng_state()
            try:
                return self._value(compute, parameters, how_many, listed, self._ring())
            except LeaveRing:
                torch.set_rng_state(before)
                _log_left()
        return self._value(compute, parameters, how_many, listed, None)

    def _ring(self) -> Ring:
        """Rows that come by, of the candidates where they were given."""
        given, counts = self.everyone.batch.candidates, self.everyone.candidate_counts
        if given is None or counts is None:
            given, counts = self.everyone.batch.embeddings, self.everyone.counts
        return Ring(given, counts, full_precision(given[:0]).dtype)

    def _value(
        self,
        compute: Compute,
        parameters: Sequence[Tensor],
        reduction: tuple[Reduction, Tensor | None, float],
        listed: Callable[[], bool | Tensor],
        ring: Ring | None,
    ) -> tuple[Tensor, bool | Tensor]:
        given, others = self.everyone.batch.embeddings, self.everyone.batch.candidates
        wants = [bool(self.everyone.learning & 2**k) for k in range(3)]
        learning = any(wants) and reduction[0] != "none"
        visitors = None
        if ring is None:
            visitors = self.candidates
            if others is None and self.among_rows and not self.whole:
                visitors = self.embeddings
        # The rows that come by have their gradient whenever the anchors have.
        anchors = leaf(self.embeddings if self.whole else given, learning and (wants[0] or ring is not None))
        compared = None if visitors is None else leaf(visitors, learning and wants[others is not None])
        learned = [leaf(x, learning and x.requires_grad) for x in parameters]
        with torch.set_grad_enabled(learning), plainly(), _to_the_end(ring):
            found = compute(anchors, ring or compared, learned)
            if ring is not None:
                ring.finish()
            some: bool | Tensor = True
            if self.among_rows:
                here = torch.as_tensor(listed(), device=given.device)
                some = int(total(here.long().view(1))) > 0
            if reduction[0] == "none":
                return self._each(found, reduction[1]), some
            parts = [(share, part) for share, some in found for part in some]
            if self.whole:
                share = torch.stack([k * part.reduce(*reduction) for k, part in parts]).sum(0)
                value = share.detach()
            else:
                value, share = shared(parts, *reduction)
            if not learning:
                return value, some
            leaves = [x for x in (anchors, compared, *learned) if x is not None and x.requires_grad]
            slopes = dict(zip(map(id, leaves), gradients_of(share, leaves), strict=True))
            if ring is not None:
                ring.finish()
        dx, dy, *rest = (None if x is None else slopes.get(id(x)) for x in (anchors, compared, *learned))
        if ring is not None:
            dy = ring.gradient
        elif dy is not None and not self.whole:
            counts = self.everyone.counts if others is None else self.everyone.candidate_counts
            dy = sent_home(dy, counts or [])
        return self._attached(value, dx, dy, rest, parameters), some

    def _attached(
        self,
        value: Tensor,
        dx: Tensor | None,
        dy: Tensor | None,
        slopes: Sequence[Tensor | None],
        parameters: Sequence[Tensor],
    ) -> Tensor:
        """Tie the gradients to what was given.

        Args:
            dx: of the anchors.
            dy: of what they are compared with; this rank's rows of it, but for a loss computed whole.
            slopes: of the parameters.
        """
        given, others = self.everyone.batch.embeddings, self.everyone.batch.candidates
        if self.whole:
            dx = None if dx is None else dx[self.everyone.own]
            counts = self.everyone.candidate_counts
            dy = None if dy is None or counts is None else dy.split(counts)[rank()]
        if others is None and dy is not None:
            dx, dy = dy if dx is None else dx + dy, None
        factor = world_size() if settings.gradients == "mean" else 1
        rows = [dx] if others is None else [dx, dy]
        gradients = [None if g is None else factor * g for g in rows]
        # Every rank has all of dL/dφ of a loss that is computed whole, else its share.
        factor = factor / world_size() if self.whole else factor
        gradients += [None if g is None else factor * g for g in slopes]
        return attach(value, gradients, [given, *([] if others is None else [others]), *parameters])

    def _each(self, found: Compared, weights: Tensor | None) -> Tensor:
        """Values of this rank's anchors, or of all classes, one by one."""
        sums = [
            share * torch.stack([part.reduce("none", weights) for part in parts]).sum(0)
            for share, parts in found
        ]
        value = torch.stack(sums).sum(0)
        return value[self.everyone.own] if self.whole and self.one_by_one else value


@contextmanager
def _to_the_end(ring: Ring | None) -> Iterator[None]:
    """Leave the ring on all ranks where this one cannot go on in it."""
    try:
        yield
    except NeedsAll:
        assert ring is not None
        ring.leave()


@cache
def _log_left() -> None:
    logger.info(
        "exchange = gather: this loss or its mining cannot be put together from one rank's rows at a time"
    )


def leaf(x: Tensor, learning: bool) -> Tensor:
    """Return what is given as something to find the gradient of, or as a constant."""
    return full_precision(x.detach()).requires_grad_(learning)


def gradients_of(share: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of a share, 0 where it does not depend on a leaf: a rank may have nothing to compare."""
    if not (share.requires_grad and leaves):
        return [torch.zeros_like(x) for x in leaves]
    found = torch.autograd.grad(share, leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]
