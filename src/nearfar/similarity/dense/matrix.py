"""The whole similarity matrix in memory, with gradients in closed form: for small batches."""

from collections.abc import Callable, Sequence
from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor

from nearfar.similarity.dense.closed import Asked, reduced
from nearfar.similarity.dense.products import products
from nearfar.similarity.dense.reduce import order_statistic
from nearfar.similarity.interval import Interval
from nearfar.similarity.measure import Measure, between, is_product
from nearfar.similarity.reductions import OrderStatistic, Reduction
from nearfar.similarity.relation import Relation
from nearfar.similarity.stable import full_precision, taken
from nearfar.similarity.stored import Stored, whole


class DenseBlock:
    """See ``Block``. A gradient of its gradient comes by plain autograd."""

    _scaled = False

    def __init__(
        self,
        anchors: Tensor,
        candidates: Tensor,
        measure: Measure,
        relation: Relation,
        stored: Stored | None = None,
        length: Float[Tensor, "anchor 1"] | None = None,
    ) -> None:
        candidates = whole(candidates, stored)
        x, y = full_precision(anchors), None if candidates is anchors else full_precision(candidates)
        self._given, self._unit, self._length = (x, y), measure == "cosine", length
        self.measure: Measure = measure
        self.relation = relation

    def __len__(self) -> int:
        return len(self._given[0])

    @property
    def parts(self) -> tuple[Tensor, None]:
        return self.candidates, None

    @property
    def matrix(self) -> Float[Tensor, "anchor candidate"]:
        """All similarities."""
        return self._compared[0]

    @property
    def anchors(self) -> Tensor:
        return self._compared[1] if self._unit else self._given[0]

    @property
    def candidates(self) -> Tensor:
        x, y = self._given
        return self._compared[2] if self._unit else x if y is None else y

    @property
    def is_cosine(self) -> bool:
        """Whether similarities lie from -1 to 1."""
        return self._unit and not self._scaled

    @cached_property
    def _compared(self) -> tuple[Tensor, Tensor, Tensor]:
        x, y = self._given
        if is_product(self.measure):
            return products(x, y, unit=self._unit, length=self._length)
        other = x if y is None else y
        return between(x, other, self.measure), x, other

    def compared_as(self, matrix: Float[Tensor, "anchor candidate"]) -> None:
        """Take these similarities for those of the vectors."""
        self._compared = (matrix, self.anchors, self.candidates)

    def positives(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        """Return the very numbers that ``stream`` compares with."""
        return self.at(anchor, candidate)

    def at(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        if not self.matrix.numel():
            return 0 * self.anchors[anchor].sum(1)
        return taken(self.matrix.flatten(), anchor * self.matrix.shape[1] + candidate)

    def named(self, columns: Int[Tensor, "anchor k"]) -> Float[Tensor, "anchor k"]:
        """Return the similarities of each anchor with some candidates."""
        if not self.matrix.shape[1]:
            return self.matrix.new_zeros(columns.shape)
        return self.matrix.gather(1, columns)

    def left_out(self, interval: Interval) -> Tensor:
        """Say which comparisons are no negative that lies in the interval: [anchor, candidate]."""
        out = self.relation.masks[1]
        if interval.above is not None:
            out = out | (self.matrix <= interval.above[:, None])
        if interval.below is not None:
            out = out | (self.matrix >= interval.below[:, None])
        return out

    def stream(
        self, interval: Interval, owners: Tensor, reductions: Sequence[Reduction]
    ) -> tuple[Tensor, ...]:
        s, out = self.matrix, self.left_out(interval)
        found = {
            k: order_statistic(s.detach().reshape(1, -1), ~out.reshape(1, -1), r.rank).expand(len(s))
            for k, r in enumerate(reductions)
            if isinstance(r, OrderStatistic) and r.over == "batch"
        }
        for per in dict.fromkeys(reduction.per for reduction in reductions):
            match per:
                case "anchor":
                    rows, left_out = s, out
                case "candidate":
                    rows, left_out = s.mT, out.mT
                case "positive":
                    rows, left_out = s.index_select(0, owners), out.index_select(0, owners)
            some = [k for k, reduction in enumerate(reductions) if reduction.per == per and k not in found]
            values = reduced(rows, [Asked(reductions[k], left_out) for k in some])
            found.update(zip(some, values, strict=True))
        return tuple(found[k] for k in range(len(reductions)))

    def both(
        self, interval: Interval, negatives: Sequence[Reduction], positives: Sequence[Asked]
    ) -> tuple[Tensor, ...]:
        """Reduce negatives per anchor, and what is asked of positives, in one operation."""
        out = self.left_out(interval)
        return tuple(
            reduced(self.matrix, [*[Asked(r, out, bounded=self.is_cosine) for r in negatives], *positives])
        )

    def scaled(self, factor: float | Float[Tensor, ""]) -> "DenseBlock":
        """Return the same comparisons with every similarity times ``factor``, of the same vectors."""
        block = object.__new__(DenseBlock)
        block.measure, block.relation = self.measure, self.relation
        block._given, block._unit, block._length = self._given, self._unit, self._length
        block._scaled = True
        s, u, v = self._compared
        block._compared = (s * factor, u, v)
        return block

    def map(
        self, change: Callable[[Tensor], Tensor], candidates: Callable[[Tensor], Tensor] | None = None
    ) -> "DenseBlock":
        block = object.__new__(DenseBlock)
        block.measure, block.relation = self.measure, self.relation
        block._unit, block._length = False, None
        if change is Tensor.detach:
            s, u, v = self._compared
            one = u.detach()
            other = one if v is u else v.detach()
            block._given, block._compared = (one, None if v is u else other), (s.detach(), one, other)
            return block
        same = self.candidates is self.anchors and candidates is None
        other = None if same else (candidates or change)(self.candidates)
        block._given = (change(self.anchors), other)
        return block
