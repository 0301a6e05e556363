"""Anchors against classes of one vector each, all similarities in memory, with gradients in closed form."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.compiler import is_compiling

from nearfar.once import once
from nearfar.similarity.classes.own import Geometry, Own
from nearfar.similarity.classes.steps import ModulatedLogSumExp, modulated
from nearfar.similarity.dense.closed import Asked, reduced
from nearfar.similarity.dense.matrix import DenseBlock, Lengths
from nearfar.similarity.dense.products import Products
from nearfar.similarity.interval import Interval
from nearfar.similarity.labels import SameClass
from nearfar.similarity.measure import is_product
from nearfar.similarity.reductions import LogSumExp, Reduction
from nearfar.similarity.relation import Relation
from nearfar.similarity.stable import full_precision, normalize


class DenseClassBlock(DenseBlock):
    """See ``Block``; each anchor has one positive, its own class.

    Attributes:
        vectors: of all classes [class, dim], as they were given.
        place: which of them is each anchor's own.
    """

    def __init__(
        self,
        anchors: Float[Tensor, "anchor dim"],
        vectors: Float[Tensor, "class dim"],
        place: Int[Tensor, " anchor"],
        geometry: Geometry,
        lengths: Lengths = (None, None),
    ) -> None:
        anchors = full_precision(anchors)
        if anchors.dtype != vectors.dtype:
            dtype = torch.promote_types(anchors.dtype, vectors.dtype)
            anchors, vectors, lengths = anchors.to(dtype), vectors.to(dtype), (None, None)
        relation = Relation(SameClass(place, torch.arange(len(vectors), device=place.device)))
        super().__init__(anchors, vectors, geometry.measure, relation, None, lengths)
        self.geometry, self.place, self.vectors = geometry, place, vectors

    @staticmethod
    def fits(geometry: Geometry) -> bool:
        """Whether classes are compared in a way that it knows."""
        alike = geometry.unit_anchors == geometry.unit_proxies
        return alike and geometry.centres == 1 and is_product(geometry.measure)

    @property
    def own(self) -> Own:
        """Each anchor with the vector of its own class; not kept, since it keeps the block."""
        return DenseOwn(self)

    @once
    def of_own(self) -> Float[Tensor, "anchor 1"]:
        """Similarity with the own class."""
        return self.matrix.gather(1, self.place[:, None])

    def stream(
        self, interval: Interval, owners: Tensor, reductions: Sequence[Reduction | ModulatedLogSumExp]
    ) -> tuple[Tensor, ...]:
        if any(isinstance(r, ModulatedLogSumExp) for r in reductions):
            keep = ~self.left_out(interval)
            return tuple(
                modulated(self.matrix, keep, r)
                if isinstance(r, ModulatedLogSumExp)
                else super(DenseClassBlock, self).stream(interval, owners, (r,))[0]
                for r in reductions
            )
        return super().stream(interval, owners, reductions)  # pyrefly: ignore

    def by_class(self, others: LogSumExp, own: LogSumExp) -> tuple[Tensor, Tensor]:
        """Reduce, for each class, the anchors of all other classes, and its own."""
        out, s = self.relation.left_out[1].mT, self.matrix.mT
        asked = [Asked(others, out, bounded=self.is_cosine), Asked(own, ~out, bounded=self.is_cosine)]
        of_others, of_own = reduced(s, asked)
        return of_others, of_own

    def sine(self, cosine: Float[Tensor, " anchor"]) -> Float[Tensor, " anchor"]:
        """Return the sine of the angle between unit vectors u_i and v_place(i), of known cosine.

            sin = |u - cos v|,  d sin = -cos / sin d cos

        No digit is lost where they are nearly aligned or opposed. Where they are so to the last digit the
        sine has a kink; there its gradient is 0.
        """
        x, w = self._given
        if is_compiling():  # which has no gradient of the gradient
            fixed, (u, v) = cosine.detach(), self._vectors
            found = _across(fixed, u.detach(), v.detach(), self.place)
            return found + _slope(fixed, found) * (cosine - fixed)
        return _Sine.apply(cosine, x, w, self._numbers, self.place)  # pyrefly: ignore

    def summed(self, values: Tensor) -> Tensor:
        """Return ``values``: no other rank has classes."""
        return values

    def map(
        self, change: Callable[[Tensor], Tensor], candidates: Callable[[Tensor], Tensor] | None = None
    ) -> DenseBlock:
        block = super().map(change, candidates)
        if change is not Tensor.detach:
            return block
        classes = object.__new__(DenseClassBlock)
        classes.__dict__.update(block.__dict__)
        classes.geometry, classes.place = self.geometry, self.place
        classes.vectors, classes.given = self.vectors.detach(), self.given.detach()
        return classes

    @once
    def given(self) -> Tensor:
        """The anchors as they came, of any length."""
        return self._given[0]


class DenseOwn(Own):
    """Each embedding with the vector of its own class, from all similarities."""

    def __init__(self, block: DenseClassBlock) -> None:
        self.__dict__.update(block=block, geometry=block.geometry)

    block: DenseClassBlock

    @property
    def given(self) -> Tensor:  # pyrefly: ignore[bad-override]
        """The embeddings as they came, of any length."""
        return self.block.given

    @once
    def proxies(self) -> Tensor:  # pyrefly: ignore[bad-override]
        """The vector of each one's class, as it came."""
        return self.block.vectors.index_select(0, self.block.place)[:, None]

    @property
    def anchors(self) -> Tensor:  # pyrefly: ignore[bad-override]
        """The embeddings as they are compared."""
        return self.block.anchors

    @once
    def candidates(self) -> Tensor:  # pyrefly: ignore[bad-override]
        """The vector of each one's class as it is compared."""
        return self.block.candidates.index_select(0, self.block.place)[:, None]

    @once
    def each(self) -> Tensor:  # pyrefly: ignore[bad-override]
        """Similarity with the one vector."""
        return self.block.of_own

    @once
    def sine(self) -> Tensor:  # pyrefly: ignore[bad-override]
        """Sine of the angle to the class."""
        if not self.geometry.unit_anchors:
            return super().sine
        return self.block.sine(self.similarity)


class _Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cosine: Tensor, x: Tensor, w: Tensor, numbers: Products, place: Tensor) -> Tensor:
        u, v = numbers.vectors(x, w)
        assert v is not None
        found = _across(cosine, u, v, place)
        ctx.save_for_backward(cosine, x, w, place, found)
        return found

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (gradient,), (cosine, x, w, place, found) = grad_outputs, ctx.saved_tensors
        if torch.is_grad_enabled():  # for a gradient of the gradient
            wanted = [z for z in (x, w) if z.requires_grad]
            slopes = iter(torch.autograd.grad(_plain(x, w, place), wanted, gradient, create_graph=True))
            return None, *(next(slopes) if z.requires_grad else None for z in (x, w)), None, None
        return _slope(cosine, found).mul_(gradient), None, None, None, None


def _across(cosine: Tensor, u: Tensor, v: Tensor, place: Tensor) -> Tensor:
    across = torch.addcmul(u, v.index_select(0, place), cosine[:, None], value=-1.0)
    return torch.linalg.vector_norm(across, dim=1)


def _slope(cosine: Tensor, found: Tensor) -> Tensor:
    least = 4 * torch.finfo(found.dtype).eps
    return (cosine / found).neg_().masked_fill_(found <= least, 0.0)


def _plain(x: Tensor, w: Tensor, place: Tensor) -> Tensor:
    """The same with plain autograd."""
    u, own = normalize(x), normalize(w).index_select(0, place)
    return torch.linalg.vector_norm(u - (u * own).sum(1, keepdim=True) * own, dim=1)
