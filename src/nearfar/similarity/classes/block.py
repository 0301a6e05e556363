"""Anchors against classes that have learned vectors: a ``Block`` whose candidates are the classes."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.once import once
from nearfar.similarity.classes.own import Geometry, Own, gathered, grouped
from nearfar.similarity.classes.ranks import Apart
from nearfar.similarity.classes.steps import ModulatedLogSumExp, modulated, step_of, streams
from nearfar.similarity.classes.tiles import PARTS, ClassTiles, Streamed
from nearfar.similarity.dense.reduce import reduce
from nearfar.similarity.interval import Interval
from nearfar.similarity.labels import SameClass
from nearfar.similarity.measure import Measure, between, is_product
from nearfar.similarity.reductions import Count, Reduction, threshold_of
from nearfar.similarity.relation import Relation
from nearfar.similarity.stable import full_precision, normalize, taken
from nearfar.similarity.threads import plainly
from nearfar.similarity.tiled.block import TiledBlock

ClassStreamed = Reduction | ModulatedLogSumExp


class ClassBlock:
    """See ``Block``; each anchor has one positive, its own class.

    Attributes:
        own: each anchor with the vectors of its own class.
        vectors: of all classes [class · centre, dim], as they were given.
        streaming: in tiles and flat memory, or as a matrix in memory with plain autograd.
        apart: where the vectors are those of one rank's classes, what to know of the others'. A place outside
            of them is that of an anchor whose class lies elsewhere.
    """

    def __init__(
        self,
        anchors: Float[Tensor, "anchor dim"],
        vectors: Float[Tensor, "row dim"],
        place: Int[Tensor, " anchor"],
        geometry: Geometry,
        *,
        streaming: bool,
        dtype: torch.dtype | None = None,
        apart: Apart | None = None,
    ) -> None:
        dtype = dtype or torch.promote_types(full_precision(anchors[:0]).dtype, vectors.dtype)
        anchors, vectors = anchors.to(dtype), vectors.to(dtype)
        k = geometry.centres
        self.geometry, self.place, self.streaming, self.apart = geometry, place, streaming, apart
        rows = (place[:, None] * k + torch.arange(k, device=place.device)).flatten()
        self._far: Tensor | None = None
        if apart is not None:
            self._far = normalize(anchors) if geometry.unit_anchors else anchors
            anchors = apart.near.to(dtype)
            self.vectors, own = vectors, apart.own.to(dtype)
        elif streaming:
            with plainly():
                self.vectors, own = gathered(vectors, rows)
        else:
            self.vectors, own = vectors, taken(vectors, rows)
        self.own = Own(anchors, own.view(len(anchors), k, vectors.shape[1]), geometry)
        self.measure: Measure = geometry.measure
        classes = torch.arange(len(vectors) // k, device=place.device)
        self.relation = Relation(SameClass(place, classes))

    def __len__(self) -> int:
        return len(self.own.given)

    @property
    def anchors(self) -> Tensor:
        """As they are compared with classes that are not their own."""
        return self.own.anchors if self._far is None else self._far

    @property
    def candidates(self) -> Tensor:
        """The vectors of all classes (of this rank, where it has some) as they are compared, [row, dim]."""
        return normalize(self.vectors) if self.geometry.unit_proxies else self.vectors

    def positives(self, anchor: Tensor, candidate: Tensor) -> Tensor:  # noqa: ARG002, each one's own class
        return self.own.similarity[anchor]

    def at(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        k = self.geometry.centres
        vectors = self.vectors.view(-1, k, self.vectors.shape[1])
        return Own(taken(self.own.given, anchor), taken(vectors, candidate), self.geometry).similarity

    @once
    def matrix(self) -> Tensor:
        """All similarities [anchor, class]."""
        each = between(self.anchors, self.candidates, self.measure)
        return grouped(each.unflatten(1, (-1, self.geometry.centres)), self.geometry.sharpness)

    def stream(
        self, interval: Interval, owners: Tensor, reductions: Sequence[ClassStreamed]
    ) -> tuple[Tensor, ...]:
        if not self.streaming:
            each = (self._joined(self._of_matrix(r, interval), r) for r in reductions)
            return tuple(x.to(self.anchors.dtype) for x in each)
        counted = {k: self._count(r) for k, r in enumerate(reductions) if _counts_all(r) and not interval}
        others = [r for k, r in enumerate(reductions) if k not in counted]
        if interval or not is_product(self.measure) or not all(streams(r) for r in others):
            some = self._tiled().stream(interval, owners, others)  # pyrefly: ignore
            found = iter([self._joined(x, r) for x, r in zip(some, others, strict=True)])
        else:
            found = iter(self._stream(others) if others else ())
        return tuple(
            self._joined(counted[k], r) if k in counted else next(found) for k, r in enumerate(reductions)
        )

    def summed(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over the ranks that share the classes out."""
        return values if self.apart is None else self.apart.summed(values)

    @property
    def parts(self) -> tuple[Tensor, None]:
        """The vectors as they are compared; nothing is stored."""
        return self.candidates, None

    def map(
        self, change: Callable[[Tensor], Tensor], candidates: Callable[[Tensor], Tensor] | None = None
    ) -> "ClassBlock":
        """Return the same comparisons of changed vectors: as given if they are detached, else as compared.

        Of classes that lie apart, it has those of this rank, and asks no other.
        """
        block = object.__new__(ClassBlock)
        block.apart, block._far = None, None if self._far is None else change(self._far)
        block.geometry, block.place, block.streaming = self.geometry, self.place, self.streaming
        block.measure, block.relation = self.measure, self.relation
        given, own, vectors = self.own.given, self.own.proxies, self.vectors
        if change is not Tensor.detach:
            given, own, vectors = self.own.anchors, self.own.candidates, self.candidates
            plain = Geometry(self.measure, False, False, self.geometry.centres, self.geometry.sharpness)
            block.geometry = plain
        other = candidates or change
        block.vectors = other(vectors)
        block.own = Own(change(given), other(own.flatten(0, 1)).view(own.shape), block.geometry)
        return block

    @plainly()
    def _stream(self, reductions: Sequence[ClassStreamed]) -> tuple[Tensor, ...]:
        x, w, unit = self.anchors, self.vectors, self.geometry.unit_anchors and self.geometry.unit_proxies
        bound = 1.0001 if unit else torch.inf
        like = x.detach().new_empty(len(x))
        classes = len(w) // self.geometry.centres
        steps = [step_of(r, bound, classes, PARTS, like, self.apart) for r in reductions]  # pyrefly: ignore
        tiles = ClassTiles(x.detach(), w.detach(), self.geometry, self.place, steps)
        return Streamed.apply(x, w, tiles)  # pyrefly: ignore

    def _tiled(self) -> TiledBlock:
        if self.geometry.centres > 1:
            raise NearfarError(
                "this reduction over classes of several centres does not stream; use backend='dense'."
            )
        return TiledBlock(
            self.anchors, self.candidates, "dot" if is_product(self.measure) else self.measure, self.relation
        )

    def _count(self, reduction: ClassStreamed) -> Tensor:
        classes, n = len(self.vectors) // self.geometry.centres, len(self)
        here = (self.place >= 0) & (self.place < classes)
        if reduction.per != "candidate":
            return classes - here.to(self.anchors.dtype)
        own = torch.bincount(self.place[here], minlength=classes)
        return (n - own).to(self.anchors.dtype)

    def _joined(self, found: Tensor, reduction: ClassStreamed) -> Tensor:
        return found if self.apart is None else self.apart.joined(found, reduction)

    def _of_matrix(self, reduction: ClassStreamed, interval: Interval) -> Tensor:
        every = torch.arange(len(self), device=self.place.device)
        keep = self.relation.negative(every) & interval.holds(self.matrix, every)
        # What is put together of several is not rounded in between.
        matrix = self.matrix if self.apart is None else self.matrix.double()
        if isinstance(reduction, ModulatedLogSumExp):
            return modulated(matrix, keep, reduction)
        if reduction.per == "candidate":
            return reduce(matrix.mT, keep.mT, reduction, threshold_of(reduction))
        return reduce(matrix, keep, reduction, threshold_of(reduction))


def _counts_all(reduction: ClassStreamed) -> bool:
    return (
        isinstance(reduction, Count)
        and not isinstance(reduction.above, Tensor)
        and reduction.above == -torch.inf
    )
