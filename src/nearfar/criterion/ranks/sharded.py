"""A loss across ranks that share the classes out: each has the vectors of some, and the anchors of all.

A rank compares the anchors of all ranks with its own classes. What the loss asks of an anchor's other
classes (a log-sum-exp, a sum) is put together over the ranks, in the forward pass, and so every rank has the
value L_i of every anchor. From there it has dL_i/ds_ij of its own classes j, which gives

    dL/dw_j = Σ_i dL_i/ds_ij ds_ij/dw_j     whole: all anchors are here; nobody averages it
    dL/dx_i = Σ_j dL_i/ds_ij ds_ij/dx_i     this rank's share: the shares are added up where the anchor is

The vector of an anchor's own class goes to all ranks; the gradient through it is known to all of them as a
whole, and counted once: for the anchor where it is, for the vector where that is. A loss that sums over the
anchors of each class (``proxy_anchor``) needs no such exchange: a class has all that it sums over.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.criterion.ahead import attach
from nearfar.criterion.alone import Compute
from nearfar.criterion.classes import Met
from nearfar.criterion.ranks.across import Across, gradients_of, leaf
from nearfar.criterion.ranks.shard import Shard
from nearfar.criterion.ranks.shares import shared
from nearfar.distributed import highest, rank, settings, total, world_size
from nearfar.distributed.exchange import sent_home
from nearfar.losses.parts.terms import Reduction
from nearfar.similarity.classes.ranks import Apart
from nearfar.similarity.threads import plainly


@dataclass(frozen=True, eq=False)
class Sharded:
    """One call of such a loss, on all ranks.

    Attributes:
        everywhere: what the batch meets among the classes of all ranks.
        here: and among those of this rank.
        by_class: whether there is a value for each class, and not for each anchor.
    """

    across: Across
    shard: Shard
    everywhere: Met
    here: Met
    by_class: bool

    def value(
        self,
        compute: Compute,
        parameters: Sequence[Tensor],
        how: Reduction,
        weights: Float[Tensor, " value"] | None,
        tilt: float,
        listed: Callable[[], bool | Tensor],
    ) -> tuple[Tensor, bool | Tensor]:
        """Return the loss of all ranks' batches, with the gradient for what this rank has.

        Args:
            parameters: the vectors of this rank's classes.
            weights: of all anchors, or of this rank's classes.
            listed: whether there are positive pairs, which is returned.
        """
        everyone, (vectors,) = self.across.everyone, parameters
        given, learning = everyone.batch.embeddings, bool(everyone.learning) and how != "none"
        every, (anchor, rows) = self.across.embeddings, self._own
        far, near = (leaf(every, learning and bool(everyone.learning & 1)) for _ in range(2))
        own, learned = (leaf(x, learning and vectors.requires_grad) for x in (self._sent(vectors), vectors))
        widest = max(self.shard.counts)
        apart = Apart(near, own, self.everywhere.place, not self.by_class, widest, total, highest)
        with torch.set_grad_enabled(learning), plainly():
            ((_, parts),) = compute(far, apart, [learned])
            if how == "none":
                each = torch.stack([part.reduce("none", weights) for part in parts]).sum(0)
                return each if self.by_class else each[everyone.own], listed()
            if self.by_class:
                value, share = shared([(1.0, part) for part in parts], how, weights, tilt)
            else:
                share = torch.stack([part.reduce(how, weights, tilt) for part in parts]).sum(0)
                value = share.detach()
            leaves = [x for x in (far, near, own, learned) if x.requires_grad]
            slopes = dict(zip(map(id, leaves), gradients_of(share, leaves), strict=True))
        dx, dnear, down, dw = (slopes.get(id(x)) for x in (far, near, own, learned))
        if dx is not None and dnear is not None:
            # Through an anchor's own class every rank has the gradient, or only the one with that class.
            dx = sent_home(dx + dnear if self.by_class else dx, everyone.counts)
            dx = dx if self.by_class else dx + dnear.split(everyone.counts)[rank()]
            dx = dx * (world_size() if settings.gradients == "mean" else 1)
        if dw is not None and down is not None:
            dw.index_add_(0, rows.flatten(), down[anchor].flatten(0, 1).to(dw))
        return attach(value, [dx, dw], [given, vectors]), listed()

    @property
    def _own(self) -> tuple[Int[Tensor, " some"], Int[Tensor, "some centre"]]:
        """The anchors whose class lies here, and the rows of its vectors."""
        k = self.shard.centres
        anchor = torch.nonzero(self.here.place >= 0).squeeze(1)
        place = self.here.place[anchor]
        place = place if self.here.chosen is None else self.here.chosen[place]
        return anchor, place[:, None] * k + torch.arange(k, device=place.device)

    def _sent(self, vectors: Float[Tensor, "few dim"]) -> Float[Tensor, "anchor centre dim"]:
        """The vectors of all anchors' own classes, wherever they lie: each from the one rank that has it."""
        anchor, rows = self._own
        n = len(self.here.place)
        sent = vectors.detach().new_zeros(n, self.shard.centres, vectors.shape[1])
        sent[anchor] = vectors.detach()[rows]
        return total(sent)
