"""How an embedding is compared with a class that has learned vectors, and with its own class."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.once import once
from nearfar.similarity.measure import EXACT, Measure, is_product
from nearfar.similarity.stable import normalize
from nearfar.similarity.threads import plainly


@dataclass(frozen=True)
class Geometry:
    """How a class is compared whose vectors are the rows class · centres, …, class · centres + centres - 1.

    Attributes:
        measure: of an embedding and one vector.
        unit_anchors, unit_proxies: which of the two are scaled to unit length before they are compared.
        centres: how many vectors each class has.
        sharpness: None takes the nearest of a class's vectors; γ takes Σ_k p_k s_k, p = softmax(γ s).
    """

    measure: Measure
    unit_anchors: bool = True
    unit_proxies: bool = True
    centres: int = 1
    sharpness: float | None = None


@dataclass(frozen=True, eq=False)
class Own:
    """Each embedding with the vectors of its own class: few enough for plain autograd.

    Attributes:
        given: the embeddings as they came, of any length.
        proxies: the vectors of each one's class, as they came.
    """

    given: Float[Tensor, "anchor dim"]
    proxies: Float[Tensor, "anchor centre dim"]
    geometry: Geometry

    @once
    def anchors(self) -> Float[Tensor, "anchor dim"]:
        """The embeddings as they are compared."""
        return normalize(self.given) if self.geometry.unit_anchors else self.given

    @once
    def candidates(self) -> Float[Tensor, "anchor centre dim"]:
        """The vectors of each one's class as they are compared."""
        if not self.geometry.unit_proxies:
            return self.proxies
        return normalize(self.proxies.flatten(0, 1)).view(self.proxies.shape)

    @once
    def each(self) -> Float[Tensor, "anchor centre"]:
        """Similarity with each of the vectors."""
        if is_product(self.geometry.measure):
            return (self.anchors[:, None] * self.candidates).sum(2)
        x, w = self.anchors[:, None], self.candidates
        if x.dtype == torch.float32 and w.numel() <= EXACT and w.device.type in ("cpu", "cuda"):
            x, w = x.double(), w.double()
        square = (x - w).square().sum(2)
        if self.geometry.measure == "squared_euclidean":
            return -square.to(self.anchors)
        apart = square > 0
        return (-torch.where(apart, square, 1.0).sqrt() * apart).to(self.anchors)

    @once
    def similarity(self) -> Float[Tensor, " anchor"]:
        """Similarity with the class."""
        return grouped(self.each, self.geometry.sharpness)

    @once
    def sine(self) -> Float[Tensor, " anchor"]:
        """Sine of the angle to the nearest vector of the class, from what of the embedding is not along it.

        √(1 - cos²) loses half of the digits where they are aligned; this loses none. There the sine has a
        kink; its gradient is 0.
        """
        x = normalize(self.given)
        nearest = self.each.detach().argmax(1)
        w = normalize(self.proxies[torch.arange(len(x), device=x.device), nearest])
        along = (x * w).sum(1, keepdim=True)
        return torch.linalg.vector_norm(x - along * w, dim=1)


def grouped(each: Float[Tensor, "*shape centre"], sharpness: float | None) -> Float[Tensor, "*shape"]:
    """One similarity for each class from those with its vectors; of equal ones the first is the nearest."""
    if each.shape[-1] == 1:
        return each.squeeze(-1)
    if sharpness is None:
        return each.max(-1).values
    return (torch.softmax(sharpness * each, -1) * each).sum(-1)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(index)
        ctx.shape = w.shape
        ctx.set_materialize_grads(False)
        return w.view_as(w), w[index]

    @staticmethod
    @torch.autograd.function.once_differentiable
    @plainly()
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (dw, rows), (index,) = grad_outputs, ctx.saved_tensors
        if rows is None:
            return dw, None
        dw = rows.new_zeros(ctx.shape) if dw is None else dw
        return dw.index_add_(0, index, rows), None


def gathered(
    w: Float[Tensor, "row dim"], index: Int[Tensor, " k"]
) -> tuple[Float[Tensor, "row dim"], Float[Tensor, "k dim"]]:
    """Return ``w`` again, for all else that reads it, and some of its rows.

    Both come out of one operation, so that the gradient of the few is added to that of all in place.
    """
    return _Gathered.apply(w, index)  # pyrefly: ignore


class _Subset(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = w.shape
        return w.index_select(0, index)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (gradient,), (index,) = grad_outputs, ctx.saved_tensors
        return gradient.new_zeros(ctx.shape).index_copy_(0, index, gradient), None


def subset(
    w: Float[Tensor, "row dim"], chosen: Int[Tensor, " class"], centres: int
) -> Float[Tensor, "few dim"]:
    """Return the vectors of some classes, each named once; the gradient of all others is 0."""
    rows = chosen[:, None] * centres + torch.arange(centres, device=chosen.device)
    return _Subset.apply(w, rows.flatten())  # pyrefly: ignore
