"""Classes whose vectors lie on several ranks: what a rank finds among its own, put together with the rest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.similarity.classes.steps import ModulatedLogSumExp
from nearfar.similarity.reductions import Count, LogSumExp, Reduction, Sum

Joint = Callable[[Tensor], Tensor]
"""The ranks' values -> their sum, or the largest of them, on every rank; without gradient."""


@dataclass(frozen=True, eq=False)
class Apart:
    """What a comparison with one rank's classes has to know of the others'.

    Every rank computes the value of all anchors. Its gradient then comes in two parts: through an anchor's
    own class, which every rank has whole, and through the other classes, of which every rank has those that
    lie there. So the anchors are two tensors here, one for each.

    Attributes:
        near: the anchors, to be compared with the vectors of their own classes.
        own: these vectors, wherever they lie.
        place: each anchor's class among those of all ranks.
        everywhere: whether an anchor's value is known on all ranks, or only where its class lies.
        width: how many vectors a rank has at most.
    """

    near: Float[Tensor, "anchor dim"]
    own: Float[Tensor, "anchor centre dim"]
    place: Int[Tensor, " anchor"]
    everywhere: bool
    width: int
    total: Joint
    highest: Joint

    def logsumexp(self, values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return log Σ e^value over the ranks, without gradient; -inf where all are."""
        top = self.highest(values)
        top = top.masked_fill(top == -torch.inf, 0.0)
        return self.total((values - top).exp()).log() + top

    def joined(self, found: Tensor, reduction: Reduction | ModulatedLogSumExp) -> Tensor:
        """Return a reduction over the classes of all ranks from that over this rank's; differentiable.

        Nothing is exchanged in the backward pass: each rank has the gradient of the whole value, and takes on
        from there to its own classes.
        """
        match reduction:
            case LogSumExp(per="candidate"):
                return found
            case LogSumExp() | ModulatedLogSumExp():
                return _Joined.apply(found, self.logsumexp, True)  # pyrefly: ignore
            case Sum() | Count(per="anchor"):
                return self.summed(found)
        raise AssertionError(reduction)

    def summed(self, found: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the sum over the ranks; differentiable, as ``joined`` is."""
        return _Joined.apply(found, self.total, False)  # pyrefly: ignore


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: Tensor, join: Joint, logarithms: bool) -> Tensor:
        exact = found.detach().double()
        result = join(exact)
        share = torch.ones_like(exact)
        if logarithms:
            share = (exact - result.masked_fill(result == -torch.inf, 0.0)).exp()
        ctx.save_for_backward(share.to(found.dtype))
        return result.to(found.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (gradient,), (share,) = grad_outputs, ctx.saved_tensors
        return gradient * share, None, None
