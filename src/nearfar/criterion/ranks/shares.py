"""From each rank's anchors to the value of all, and to the share of it that is this rank's."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.distributed import highest, total
from nearfar.losses.parts.terms import Reduction, Terms

Parts = Sequence[tuple[float, Terms]]
"""(weight, terms), to be averaged each for itself and added"""


def shared(
    parts: Parts, how: Reduction, weights: Float[Tensor, " anchor"] | None, tilt: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Reduce the terms of all ranks' anchors as ``Terms.reduce`` does those of one process.

    Returns:
        The value, and this rank's share: the sum of all shares has the gradient of the value.
    """
    if how == "tilted":
        return _tilted(parts, weights, tilt)
    fractions = [(factor, *part.fraction(how, weights)) for factor, part in parts]
    own = torch.stack([x.detach() for _, *fraction in fractions for x in fraction])
    sums = total(own.double()).view(-1, 2)
    if how == "sum":
        sums[:, 1] = 1
    divisors = sums[:, 1].masked_fill(sums[:, 1] == 0, 1.0)
    factors = sums.new_tensor([factor for factor, _ in parts])
    shares = [
        factor * numerator / divisor.to(numerator)
        for (factor, numerator, _), divisor in zip(fractions, divisors, strict=True)
    ]
    return (factors * sums[:, 0] / divisors).sum().to(own.dtype), torch.stack(shares).sum(0)


def _tilted(parts: Parts, weights: Tensor | None, tilt: float) -> tuple[Tensor, Tensor]:
    """1/t log of the mean of exp(t L_i), and Σ v_i L_i with v_i ∝ w_i exp(t L_i) that sum to 1 over ranks."""
    logits, masses = [], []
    for _, part in parts:
        w = torch.ones_like(part.total) if weights is None else weights.to(part.total)
        w = torch.where(part.count > 0, w, 0.0)
        logits.append(tilt * part.total.detach() + w.log())
        masses.append(w.sum())
    none = logits[0].new_full((1,), -torch.inf)
    top = highest(torch.stack([torch.cat([z, none]).amax() for z in logits]))
    top = top.masked_fill(top == -torch.inf, 0.0)
    each = [(z - t).exp() for z, t in zip(logits, top, strict=True)]
    whole, mass = total(torch.stack([*(e.sum() for e in each), *masses]).double()).view(2, -1)
    some = whole > 0
    means = torch.where(some, (torch.where(some, whole / mass, 1.0).log() + top) / tilt, 0.0)
    factors = means.new_tensor([factor for factor, _ in parts])
    shares = [
        factor * (e / torch.where(some[k], whole[k], 1.0).to(e) * part.total).sum()
        for k, ((factor, part), e) in enumerate(zip(parts, each, strict=True))
    ]
    return (factors * means).sum().to(none.dtype), torch.stack(shares).sum(0)
