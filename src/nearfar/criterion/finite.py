"""One rule for NaN and infinity in what a loss is given: the loss is NaN, and so is all of its gradient.

A rule compares, a hinge cuts off, a maximum chooses: each can lose a NaN on its way, or make an index of it.
So what is given is judged before any arithmetic, which then sees 0 in place of what is not finite, and the
result is NaN whatever it came to.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nearfar.criterion.batch import Batch
from nearfar.similarity.stable import at_once, read


@dataclass(eq=False)
class Verdict:
    """Whether all that a loss is given is finite.

    Attributes:
        factor: 1 if it is, else NaN, on the device and not waited for; None where it is known to be 1.
    """

    factor: Float[Tensor, ""] | None

    @property
    def is_finite(self) -> bool:
        """The verdict itself; the device is waited for."""
        return self.factor is None or bool(self.factor == 1)

    def batch(self, batch: Batch) -> Batch:
        """Return the batch with finite vectors, whose gradient is NaN if they were not."""
        if self.factor is None:
            return batch
        others = batch.candidates
        return replace(
            batch,
            embeddings=self.rows(batch.embeddings),
            candidates=None if others is None else self.rows(others),
        )

    def rows(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return ``x`` with 0 for what is not finite; its gradient is NaN if anything was not."""
        return x if self.factor is None else _Judged.apply(x.nan_to_num(0.0, 0.0, 0.0), self.factor)  # pyrefly: ignore

    def vectors(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return ``x`` as it is, without a copy: of vectors that nothing is chosen by."""
        return x if self.factor is None else _Judged.apply(x, self.factor)  # pyrefly: ignore

    def value(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return what has been computed, or NaN."""
        return x if self.factor is None else x * self.factor

    def unless(self, wrong: Bool[Tensor, "*shape"]) -> "Verdict":
        """Return the same verdict, or NaN where anything is ``wrong``."""
        factor = torch.where(wrong.any(), torch.nan, 1.0)
        return Verdict(factor if self.factor is None else self.factor * factor)

    def running(self, new: Float[Tensor, ""], old: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return a number that runs over batches, which a batch that is not finite leaves as it was."""
        return torch.where(self.value(new).isfinite(), new, old)


FINITE = Verdict(None)


def judge(given: Iterable[Tensor | None]) -> Verdict:
    """Look at all that a loss is given and may learn by, once."""
    # The ends of a tensor are NaN or infinite if anything in it is, and one pass without a copy.
    ends = [end for x in given if x is not None and x.numel() for end in torch.aminmax(x.detach())]
    if not all(at_once(end) for end in ends):
        return Verdict(torch.stack(ends).mul(0.0).sum() + 1.0)
    return verdict(all(isfinite(read(end)) for end in ends))


def verdict(finite: bool) -> Verdict:
    """Return what is known already."""
    return FINITE if finite else Verdict(torch.tensor(torch.nan))


class _Judged(torch.autograd.Function):
    """The same tensor, whose gradient is multiplied: where it is 0 by NaN, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore
        (factor,), (gradient,) = ctx.saved_tensors, grad_outputs
        return gradient * factor, None
