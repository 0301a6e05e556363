"""TripletSoftmaxLoss: the graph of Eltwise, Reduction, Power, Softmax and EuclideanLoss as one layer."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nearfar.caffe.layers.bottoms import rows_of
from nearfar.criterion.finite import judge
from nearfar.errors import NearfarError
from nearfar.similarity.measure import row_by_row


class TripletSoftmaxLoss(nn.Module):
    """Compare the distances to a positive and to a negative by a softmax, and square what the positive gets.

        loss = 1/B Σ_b d⁺²    with    d⁺ = exp(u) / (exp(u) + exp(v)) = σ(u - v),  u = |a - p|,  v = |a - n|

    The squared error of (d⁺, d⁻) against (0, 1) is 2 d⁺², which EuclideanLoss halves.

    Args:
        parity: NaN in the gradient of a triplet with a distance of 0, as the graph gives it. By default that
            distance has gradient 0.

    Reference:
        Hoffer & Ailon, SIMBAD 2015, section 2. https://arxiv.org/abs/1412.6622
    """

    def __init__(self, parity: bool = False) -> None:
        super().__init__()
        self.parity = parity

    def forward(
        self,
        anchor: Float[Tensor, "b *dim"],
        positive: Float[Tensor, "b *dim"],
        negative: Float[Tensor, "b *dim"],
    ) -> Float[Tensor, ""]:
        """Return the loss of B triplets, NaN where a number is not finite.

        Raises:
            NearfarError: if the three differ in shape.
        """
        if not anchor.shape == positive.shape == negative.shape:
            shapes = ", ".join(str(list(x.shape)) for x in (anchor, positive, negative))
            raise NearfarError(
                f"anchor, positive and negative have shapes {shapes}; give one row of each for every triplet."
            )
        judged = judge((anchor, positive, negative))
        sides = (rows_of(x, "TripletSoftmaxLoss") for x in (anchor, positive, negative))
        a, p, n = (judged.rows(x) for x in sides)
        u, v = self._distance(a, p), self._distance(a, n)
        return judged.value(torch.sigmoid(u - v).square().sum() / max(1, len(a)))

    def extra_repr(self) -> str:
        return f"parity={self.parity}"

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        if self.parity:
            return (x - y).square().sum(1).sqrt()  # 0 / 0 in the gradient at distance 0
        return -row_by_row(x, y, "euclidean")
