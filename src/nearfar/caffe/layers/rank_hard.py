"""RankHardLoss: each group's first two rows against the anchor's hardest and random violators."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from nearfar.caffe.layers.bottoms import classes_of, numbered, rows_of
from nearfar.caffe.layers.gradients import unweighted
from nearfar.criterion.finite import judge
from nearfar.errors import NearfarError
from nearfar.mining.random import random
from nearfar.mining.rounding import slack
from nearfar.pairs import Pairs
from nearfar.similarity import Count, Sample, TopK
from nearfar.similarity.tiled.similarities import at_pairs


class RankHardLoss(nn.Module):
    """Ask that the first two rows of each group be nearer to each other than to negatives chosen for them.

    A group is ``pair_size`` rows; its first is the anchor i, its second the positive p = i + 1, and all rows
    of another label than the anchor's are negatives. With s_ij the dot product, m the margin,
    V_i = { j : s_ij > s_ip - m } the anchor's violators, H_i those chosen, and c = 2 neg_num N / pair_size:

        loss = 1/c Σ_i Σ_{j∈H_i} [max(0, s_ij - s_ip + m) + max(0, s_pj - s_ip + m)]

    All violators are chosen where there are at most ``neg_num``. Otherwise: of the ``neg_num`` most similar
    (of equals the first), a random ⌊neg_num · hard_ratio⌋, and of all other violators a random
    ⌊neg_num · rand_ratio⌋. c counts slots, filled or not.

    Args:
        neg_num: how many of the most similar violators are hard (>= 1).
        pair_size: rows of a group (>= 2).
        hard_ratio, rand_ratio: shares of ``neg_num`` in [0, 1]. Both 0, the layer's default, is taken as
            hard_ratio = 1: the hardest.
        margin: m, in units of the dot product.
        parity: with both ratios 0, choose nothing where there are more than ``neg_num`` violators; take the
            weight of the loss as 1 in the backward pass, whatever it is; take the second row as positive
            whatever its label.

    Raises:
        NearfarError: if a setting is out of range.

    Reference:
        Wang & Gupta, ICCV 2015, and its public Caffe layer. https://arxiv.org/abs/1505.00687
    """

    def __init__(
        self,
        neg_num: int = 1,
        pair_size: int = 2,
        hard_ratio: float = 0.0,
        rand_ratio: float = 0.0,
        margin: float = 0.5,
        parity: bool = False,
    ) -> None:
        super().__init__()
        if neg_num < 1:
            raise NearfarError(f"RankHardLoss needs neg_num of 1 or more; got {neg_num}.")
        if pair_size < 2:
            raise NearfarError(
                f"RankHardLoss takes the second row of each group as the positive, so pair_size must be 2 or "
                f"more; got {pair_size}. Caffe's default of 1 reads beyond the batch."
            )
        if not (0 <= hard_ratio <= 1 and 0 <= rand_ratio <= 1):
            raise NearfarError(
                f"hard_ratio and rand_ratio are shares of neg_num in [0, 1]; got {hard_ratio} and "
                f"{rand_ratio}."
            )
        if not parity and hard_ratio == rand_ratio == 0:
            hard_ratio = 1.0
        self.neg_num, self.pair_size, self.margin, self.parity = neg_num, pair_size, margin, parity
        self.hard_ratio, self.rand_ratio = hard_ratio, rand_ratio

    def forward(
        self,
        features: Float[Tensor, "n *dim"],
        labels: Shaped[Tensor, "n *one"],
        selected: Bool[Tensor, "n n"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss, NaN where a feature is not finite.

        Args:
            features: [N, ...], taken as they are: put ``Norm`` before it.
            labels: N whole numbers.
            selected: which rows are chosen as negatives of each anchor, instead of choosing here.

        Raises:
            NearfarError: if shapes do not fit, N is no multiple of ``pair_size``, or the first two rows of a
                group differ in label.
        """
        x, classes, anchors = self._bottoms(features, labels)
        judged = judge((x,))
        x = judged.rows(x)
        with torch.autocast(x.device.type, enabled=False):
            if selected is None:
                columns = self._choose(x.detach(), classes, anchors)
            else:
                columns = _listed(selected, len(x))[anchors]
            place, slot = torch.nonzero(columns >= 0, as_tuple=True)
            i, j = anchors[place], columns[place, slot]
            pair = at_pairs(x, x, anchors, anchors + 1, "dot")[place]
            terms = [(at_pairs(x, x, end, j, "dot") - pair + self.margin).relu() for end in (i, i + 1)]
        slots = self.neg_num * len(x) // self.pair_size * 2
        value = judged.value((terms[0] + terms[1]).sum() / max(1, slots))
        return unweighted(value) if self.parity else value

    @torch.no_grad()
    def selected(
        self, features: Float[Tensor, "n *dim"], labels: Shaped[Tensor, "n *one"]
    ) -> Bool[Tensor, "n n"]:
        """Choose negatives and return them as a mask [anchor, negative], for batches small enough."""
        x, classes, anchors = self._bottoms(features, labels)
        with torch.autocast(x.device.type, enabled=False):
            columns = self._choose(x, classes, anchors)
        mask = torch.zeros(len(x), len(x) + 1, dtype=torch.bool, device=x.device)
        mask[anchors[:, None], columns.masked_fill(columns < 0, len(x))] = True
        return mask[:, : len(x)]

    def extra_repr(self) -> str:
        return (
            f"neg_num={self.neg_num}, pair_size={self.pair_size}, hard_ratio={self.hard_ratio}, "
            f"rand_ratio={self.rand_ratio}, margin={self.margin}, parity={self.parity}"
        )

    def _bottoms(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows, their classes, and which rows are anchors."""
        x = rows_of(features, "RankHardLoss")
        if len(x) % self.pair_size:
            raise NearfarError(
                f"RankHardLoss has {len(x)} rows, which is no multiple of pair_size = {self.pair_size}."
            )
        classes = numbered(classes_of(labels, len(x), "RankHardLoss", single_precision=self.parity))
        anchors = torch.arange(0, len(x), self.pair_size, device=x.device)
        apart = anchors[classes[anchors] != classes[anchors + 1]]
        if len(apart) and not self.parity:
            raise NearfarError(
                f"row {int(apart[0]) + 1} is the positive of row {int(apart[0])}, but their labels differ; "
                f"order the batch in groups of pair_size = {self.pair_size} rows of one label."
            )
        return x, classes, anchors

    @torch.no_grad()
    def _choose(self, x: Tensor, classes: Tensor, anchors: Tensor) -> Int[Tensor, "anchor k"]:
        """List the negatives chosen for each anchor; -1 is none."""
        limit = at_pairs(x, x, anchors, anchors + 1, "dot") - self.margin
        pairs = Pairs.between(x[anchors], classes[anchors], x, classes, anchors, similarity="dot")
        violators = pairs.narrow(above=limit)
        (count,) = violators.stream(Count())
        nearest = _nearest(violators, self.neg_num)
        few = (count <= self.neg_num)[:, None]
        hard, others = (
            int(np.float32(self.neg_num) * np.float32(share)) for share in (self.hard_ratio, self.rand_ratio)
        )
        chosen = nearest if hard == self.neg_num else _some(nearest, hard)
        columns = [torch.where(few, nearest, chosen.new_full(nearest.shape, -1))]
        columns.append(chosen.masked_fill(few, -1))
        if others:
            # Draws from all but the hard ones are draws from all, in random order, less the hard ones.
            lots = random(violators, keep_negatives=hard + others).chosen
            assert lots is not None
            drawn = _some(lots.columns, hard + others)
            taken = (drawn[:, :, None] == chosen[:, None, :]).any(2)
            rest = drawn.masked_fill(taken, -1)
            rest = rest.gather(1, (rest < 0).int().argsort(dim=1, stable=True))[:, :others]
            columns.append(rest.masked_fill(few, -1))
        return torch.cat(columns, 1)


def _nearest(pairs: Pairs, k: int) -> Int[Tensor, "anchor k"]:
    """List each anchor's k most similar negatives, of equals the first; -1 where there are fewer.

    A backend takes any of equals, so where the k-th has equals they are counted out in order of their rows.
    """
    (found,) = pairs.stream(TopK(k + 1))
    anchor = torch.arange(len(pairs), device=found.device)[:, None].expand_as(found)
    s = pairs.block.at(anchor.reshape(-1), found.clamp_min(0).reshape(-1)).view(found.shape)
    near = slack(pairs)
    tied = torch.nonzero((found[:, k] >= 0) & (s[:, k - 1] - s[:, k] <= near)).squeeze(1)
    found = found[:, :k]
    if not len(tied):
        return found
    block, s, edge, near = pairs.block, s[tied, :k], s[tied, k - 1], near[tied]
    few = Pairs.of(block.anchors[tied], block.candidates, block.relation.take(tied), pairs.measure)
    bound = pairs.interval.above
    equals = few.narrow(above=edge - 2 * near, below=edge + 2 * near)
    equals = equals if bound is None else equals.narrow(above=bound[tied])
    (count,) = equals.stream(Count())
    # In the middle of its step, a draw of equal weights is exactly the negative of that rank.
    rank = torch.arange(k, device=found.device)
    (first,) = equals.stream(Sample(torch.zeros_like, (rank + 0.5) / count.double().clamp_min(1)[:, None]))
    nearer = s >= (edge + 2 * near)[:, None]
    place = (rank - nearer.sum(1, keepdim=True)).clamp_min(0)
    return found.index_copy(0, tied, torch.where(nearer, found[tied], first.gather(1, place)))


def _some(columns: Int[Tensor, "anchor k"], count: int) -> Int[Tensor, "anchor {count}"]:
    """Return ``count`` of each anchor's columns in random order; -1 comes last."""
    order = torch.rand(columns.shape, device=columns.device).masked_fill(columns < 0, 2.0).argsort(1)
    return columns.gather(1, order)[:, :count]


def _listed(mask: Tensor, n: int) -> Int[Tensor, "anchor k"]:
    """Turn a mask [n, n] into columns padded with -1."""
    if mask.shape != (n, n):
        raise NearfarError(f"selected must be a mask of shape [{n}, {n}]; got {list(mask.shape)}.")
    there = mask.bool()
    columns = torch.arange(n, device=mask.device).expand(n, n).masked_fill(~there, -1)
    return columns.sort(1, descending=True).values[:, : int(there.sum(1).max()) if n else 0]
