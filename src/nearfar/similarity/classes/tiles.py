"""Similarities of anchors with the learned vectors of classes, a block of classes at a time.

The vectors are read where they lie: a block of them is scaled to unit length, compared, used and forgotten,
and its gradient is finished before the next block. Nothing of their size is kept but their gradient.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nearfar.similarity.classes.own import Geometry
from nearfar.similarity.classes.steps import ClassStep, Places
from nearfar.similarity.stable import inverse_lengths
from nearfar.similarity.threads import in_turn, plainly
from nearfar.similarity.tiled.matmul import choose_product
from nearfar.similarity.tiled.tile import scratch

ELEMENTS = 2**18
"""Similarities in a tile, which holds all anchors: larger ones leave the cache of a core. Measured."""
NARROWEST = 64
"""Vectors in a block at least; with more than 4,096 anchors tiles grow instead."""
PARTS = 4
"""Stretches of classes that threads may share; their number is fixed so that sums depend on no other."""


class ClassTiles:
    """One pass over all classes, and the second one that gives its gradient.

    Attributes:
        inverse: 1 / length of each vector, where they are scaled; known after ``forward``.
    """

    def __init__(
        self, x: Tensor, w: Tensor, geometry: Geometry, place: Tensor, steps: Sequence[ClassStep]
    ) -> None:
        self.x, self.w, self.geometry, self.steps = x, w, geometry, steps
        self.classes = len(w) // geometry.centres
        self.inverse = w.new_empty(len(w)) if geometry.unit_proxies else None
        product = choose_product(x.shape[1], x.device) if x.dtype == torch.float32 else None
        self.product = (lambda a, b: a @ b.mT) if product is None else (lambda a, b: product(a, b, None))
        width = max(NARROWEST, ELEMENTS // max(1, len(x))) // geometry.centres
        width = max(1, min(width, self.classes))
        self.blocks = [slice(a, min(a + width, self.classes)) for a in range(0, self.classes, width)]
        share = max(1, -(-len(self.blocks) // PARTS))
        self.parts = [range(a, min(a + share, len(self.blocks))) for a in range(0, len(self.blocks), share)]
        self.order = torch.argsort(place)
        self.place = place[self.order]
        edges = torch.tensor([*(block.start for block in self.blocks), self.classes], device=place.device)
        self.first = torch.searchsorted(self.place, edges).tolist()

    def forward(self) -> None:
        def work(part: int) -> None:
            for number in self.parts[part]:
                classes = self.blocks[number]
                _, each = self._compare(number, first=True)
                s, _ = nearest(each, self.geometry.sharpness)
                for step in self.steps:
                    step.visit(s, self._own(number), classes, part)

        in_turn(work, [(part,) for part in range(len(self.parts))])

    def backward(self, need_w: bool) -> tuple[Tensor, Tensor | None]:
        dx = self.x.new_zeros(len(self.parts), *self.x.shape)
        dw = torch.empty_like(self.w) if need_w else None

        def work(part: int) -> None:
            for number in self.parts[part]:
                units, each = self._compare(number, first=False)
                weights = self._weights(number, each)
                for unit, weight in zip(units, weights, strict=True):
                    dx[part].add_(self.product(weight, unit.mT))
                if dw is not None:
                    self._push(number, units, weights, dw)

        in_turn(work, [(part,) for part in range(len(self.parts))])
        return dx.sum(0), dw

    def _compare(self, number: int, first: bool) -> tuple[list[Tensor], list[Tensor]]:
        """The vectors of a block as they are compared, and their similarities, for each centre."""
        rows = self._rows(number)
        unit = self.w[rows]
        if self.inverse is not None:
            if first:
                self.inverse[rows] = inverse_lengths(unit).squeeze(1)
            out = scratch.get("unit", (unit.shape[0], unit.shape[1]), unit.dtype, unit.device)
            unit = torch.mul(unit, self.inverse[rows, None], out=out)
        units = [unit]
        if self.geometry.centres > 1:
            units = [part.contiguous() for part in self._by_centre(unit).unbind(1)]
        return units, [self.product(self.x, part) for part in units]

    def _weights(self, number: int, each: list[Tensor]) -> list[Tensor]:
        """dL/ds of a block, for each centre."""
        s, which = nearest(each, self.geometry.sharpness)
        total: Tensor | None = None
        for step in self.steps:
            name = "weights" if total is None else "more weights"
            out = scratch.get(name, (s.shape[0], s.shape[1]), s.dtype, s.device)
            term = step.weigh(s, self.blocks[number], out)
            total = term if total is None else total.add_(term)
        assert total is not None
        total[self._own(number)] = 0.0
        return spread(total, each, s, which, self.geometry.sharpness)

    def _push(self, number: int, units: list[Tensor], weights: list[Tensor], dw: Tensor) -> None:
        """Write the gradient of a block's vectors."""
        rows = self._rows(number)
        there = self._by_centre(dw[rows])
        inverse = None if self.inverse is None else self._by_centre(self.inverse[rows, None])
        for k, (unit, weight) in enumerate(zip(units, weights, strict=True)):
            gradient = self.product(weight.mT, self.x.mT)
            if inverse is not None:
                along = (unit * gradient).sum(1, keepdim=True)
                gradient.addcmul_(unit, along, value=-1.0).mul_(inverse[:, k])
            there[:, k] = gradient

    def _by_centre(self, rows: Tensor) -> Tensor:
        """See [class · centre, …] as [class, centre, …]."""
        return rows.view(-1, self.geometry.centres, rows.shape[1])

    def _rows(self, number: int) -> slice:
        classes, k = self.blocks[number], self.geometry.centres
        return slice(classes.start * k, classes.stop * k)

    def _own(self, number: int) -> Places:
        here = slice(self.first[number], self.first[number + 1])
        return self.order[here], self.place[here] - self.blocks[number].start


def nearest(each: list[Tensor], sharpness: float | None) -> tuple[Tensor, Tensor | None]:
    """Similarity with a class from those with its centres, and the number of the nearest one."""
    if len(each) == 1:
        return each[0], None
    if sharpness is not None:
        stacked = torch.stack(each)
        return (torch.softmax(sharpness * stacked, 0) * stacked).sum(0), None
    s, which = each[0].clone(), torch.zeros_like(each[0], dtype=torch.uint8)
    for k, other in enumerate(each[1:], 1):
        which.masked_fill_(other > s, k)
        torch.maximum(s, other, out=s)
    return s, which


def spread(
    weights: Tensor, each: list[Tensor], s: Tensor, which: Tensor | None, sharpness: float | None
) -> list[Tensor]:
    """Share dL/ds of the classes among their centres."""
    if len(each) == 1:
        return [weights]
    if which is not None:
        return [weights * (which == k) for k in range(len(each))]
    assert sharpness is not None
    stacked = torch.stack(each)
    shares = torch.softmax(sharpness * stacked, 0)
    return list(shares.mul_(stacked.sub_(s).mul_(sharpness).add_(1.0)).mul_(weights))


class Streamed(torch.autograd.Function):
    """All reductions of one pass over the classes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, tiles: ClassTiles) -> tuple[Tensor, ...]:  # noqa: ARG004
        tiles.forward()
        ctx.tiles = tiles
        ctx.set_materialize_grads(False)
        # Tensors of their own: an output that a step holds would keep the operation, which holds the steps.
        return tuple(step.result().detach() for step in tiles.steps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @plainly()
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        tiles: ClassTiles = ctx.tiles
        taught = [
            (step, gradient)
            for step, gradient in zip(tiles.steps, grad_outputs, strict=True)
            if gradient is not None
        ]
        if not taught:
            return None, None, None
        for step, gradient in taught:
            step.receive(gradient.contiguous())
        every, tiles.steps = tiles.steps, [step for step, _ in taught]
        try:
            return *tiles.backward(ctx.needs_input_grad[1]), None
        finally:
            tiles.steps = every
