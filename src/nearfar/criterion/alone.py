"""A loss of one process: the other side of ``across``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.criterion.ahead import with_gradient
from nearfar.criterion.batch import Batch
from nearfar.distributed.ring import Ring
from nearfar.losses.parts.terms import Reduction, Terms
from nearfar.similarity.classes.ranks import Apart
from nearfar.similarity.threads import plainly

Compared = Sequence[tuple[float, Sequence[Terms]]]
"""(weight of a comparison, the parts of the loss that come of it)"""
Compute = Callable[[Tensor, Tensor | Ring | Apart | None, Sequence[Tensor]], Compared]
"""(anchors, rows to compare them with or None for the anchors, parameters) -> what the loss is made of

``Apart`` is what to know of other ranks' classes where the parameters are vectors of classes shared out.
"""


@dataclass(frozen=True, eq=False)
class Alone:
    """One call of a loss, of one process.

    Attributes:
        ahead: compute the gradient with the value.
    """

    batch: Batch
    ahead: bool

    def value(
        self,
        compute: Compute,
        parameters: Sequence[Tensor],
        how: Reduction,
        weights: Float[Tensor, " anchor"] | None,
        tilt: float,
        listed: Callable[[], bool | Tensor],
    ) -> tuple[Tensor, bool | Tensor]:
        """Return the loss, and whether it has found positive pairs, as ``listed`` then says."""
        given = self.batch.candidates

        def value(inputs: Sequence[Tensor]) -> Tensor:
            anchors, *rest = inputs
            others = None if given is None else rest.pop(0)
            sums = [
                share * torch.stack([part.reduce(how, weights, tilt) for part in parts]).sum(0)
                for share, parts in compute(anchors, others, rest)
            ]
            return torch.stack(sums).sum(0)

        inputs = [self.batch.embeddings, *([] if given is None else [given]), *parameters]
        if not self.ahead:
            return value(inputs), listed()
        with plainly():
            return with_gradient(value, inputs), listed()
