"""The whole similarity matrix in memory, with gradients in closed form: for small batches."""

from collections.abc import Callable, Sequence

from jaxtyping import Float, Int
from torch import Tensor
from torch.compiler import is_compiling

from nearfar.once import once
from nearfar.similarity.dense.closed import Asked, reduced
from nearfar.similarity.dense.products import Products, matrix, vectors
from nearfar.similarity.dense.reduce import order_statistic
from nearfar.similarity.interval import Interval
from nearfar.similarity.measure import Measure, between, is_product
from nearfar.similarity.reductions import OrderStatistic, Reduction
from nearfar.similarity.relation import Relation
from nearfar.similarity.stable import full_precision, taken
from nearfar.similarity.stored import Stored, whole

Lengths = tuple[Float[Tensor, "anchor 1"] | None, Float[Tensor, "candidate 1"] | None]
"""Of rows and of columns, each where it is known and no number is near its end."""


class DenseBlock:
    """See ``Block``. A gradient of its gradient comes by plain autograd."""

    _scaled = _replaced = False
    _still: "DenseBlock | None" = None
    _matrix: Tensor | None = None

    def __init__(
        self,
        anchors: Tensor,
        candidates: Tensor,
        measure: Measure,
        relation: Relation,
        stored: Stored | None = None,
        lengths: Lengths = (None, None),
    ) -> None:
        if stored is not None:
            candidates = whole(candidates, stored)
        x = full_precision(anchors)
        self._given = x, None if candidates is anchors else full_precision(candidates)
        self.measure: Measure = measure
        self.relation = relation
        self._numbers = Products(measure == "cosine", *lengths)

    def __len__(self) -> int:
        return self._given[0].shape[0]

    @property
    def parts(self) -> tuple[Tensor, None]:
        return self.candidates, None

    @property
    def shape(self) -> tuple[int, int]:
        """How many anchors and candidates there are."""
        x, y = self._given
        return x.shape[0], (x if y is None else y).shape[0]

    @property
    def matrix(self) -> Float[Tensor, "anchor candidate"]:
        """All similarities."""
        if self._matrix is None:
            x, y = self._given
            if is_product(self.measure):
                self._matrix = matrix(x, y, self._numbers)
            else:
                self._matrix = between(x, x if y is None else y, self.measure)
        return self._matrix

    @property
    def plain(self) -> Float[Tensor, "anchor candidate"]:
        """All similarities, without gradient."""
        if self._replaced or not is_product(self.measure) or is_compiling():
            return self.matrix.detach()
        return self._numbers.of(*self._given)

    @once
    def _vectors(self) -> tuple[Tensor, Tensor]:
        return vectors(*self._given, self._numbers)

    @property
    def anchors(self) -> Tensor:
        return self._vectors[0]

    @property
    def candidates(self) -> Tensor:
        return self._vectors[1]

    @property
    def is_cosine(self) -> bool:
        """Whether similarities lie from -1 to 1."""
        return self._numbers.unit and not self._scaled

    def compared_as(self, matrix: Float[Tensor, "anchor candidate"]) -> None:
        """Take these similarities for those of the vectors."""
        self._matrix, self._replaced = matrix, True

    def reduced(self, asked: Sequence[Asked]) -> Sequence[Tensor]:
        """Return each reduction of the rows of the matrix, in one operation."""
        if self._matrix is None and is_product(self.measure) and all(each.kind for each in asked):
            return reduced(self._given[0], asked, self._given[1], self._numbers)
        return reduced(self.matrix, asked)

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
        out = self.relation.left_out[1]
        if interval.above is not None:
            out = out | (self.plain <= interval.above[:, None])
        if interval.below is not None:
            out = out | (self.plain >= interval.below[:, None])
        return out

    def stream(
        self, interval: Interval, owners: Tensor, reductions: Sequence[Reduction]
    ) -> tuple[Tensor, ...]:
        out = self.left_out(interval)
        if all(r.per == "anchor" and not isinstance(r, OrderStatistic) for r in reductions):
            bounded = self.is_cosine
            return tuple(self.reduced([Asked(r, out, False, bounded) for r in reductions]))
        found = {
            k: order_statistic(self.plain.reshape(1, -1), ~out.reshape(1, -1), r.rank).expand(len(out))
            for k, r in enumerate(reductions)
            if isinstance(r, OrderStatistic) and r.over == "batch"
        }
        for per in dict.fromkeys(reduction.per for reduction in reductions):
            match per:
                case "anchor":
                    rows, left_out = self.matrix, out
                case "candidate":
                    rows, left_out = self.matrix.mT, out.mT
                case "positive":
                    rows, left_out = self.matrix.index_select(0, owners), out.index_select(0, owners)
            some = [k for k, reduction in enumerate(reductions) if reduction.per == per and k not in found]
            values = reduced(rows, [Asked(reductions[k], left_out) for k in some])
            found.update(zip(some, values, strict=True))
        return tuple(found[k] for k in range(len(reductions)))

    def both(
        self, interval: Interval, negatives: Sequence[Reduction], positives: list[Asked]
    ) -> tuple[Tensor, ...]:
        """Reduce negatives per anchor, and what is asked of positives, in one operation."""
        out = self.left_out(interval)
        bounded = self.is_cosine
        return tuple(self.reduced([Asked(r, out, False, bounded) for r in negatives] + positives))

    def scaled(self, factor: float | Float[Tensor, ""]) -> "DenseBlock":
        """Return the same comparisons with every similarity times ``factor``, of the same vectors."""
        block = self._like(self._given, self._numbers)
        block._scaled = block._replaced = True
        block._matrix = self.matrix * factor
        return block

    def map(
        self, change: Callable[[Tensor], Tensor], candidates: Callable[[Tensor], Tensor] | None = None
    ) -> "DenseBlock":
        if change is Tensor.detach:
            if self._still is None:
                self._still = self._detached()
            return self._still
        same = self.candidates is self.anchors and candidates is None
        other = None if same else (candidates or change)(self.candidates)
        return self._like((change(self.anchors), other), Products(unit=False))

    def _detached(self) -> "DenseBlock":
        block = self._like(self._given, self._numbers)
        block._scaled, block._replaced = self._scaled, self._replaced
        block._matrix = self.plain
        x, y = self._given
        if self._numbers.known:
            block._given = self._numbers.vectors(x, y)
        else:
            block._given = x.detach(), None if y is None else y.detach()
        return block

    def _like(self, given: tuple[Tensor, Tensor | None], numbers: Products) -> "DenseBlock":
        block = object.__new__(DenseBlock)
        block.measure, block.relation = self.measure, self.relation
        block._given, block._numbers = given, numbers
        return block
