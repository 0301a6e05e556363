"""Tuplet margin loss: a positive against all negatives, its angle relieved by a slack."""

from math import cos, sin

import torch
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, Measure, softplus


def _angles(embeddings: Tensor, similarity: Measure) -> tuple[Tensor, Measure]:  # noqa: ARG001, a view
    """Compare by the angle, whatever was asked for."""
    return embeddings, "cosine"


@register_loss(reduction="mean_terms", needs="positive", view=_angles, table=True)
def tuplet_margin(pairs: Pairs, *, margin: float = 0.1, temperature: float = 1 / 64) -> Terms:
    """Classify each positive against all negatives of its anchor, after turning it nearer by the margin.

    With θ_ij the angle between two embeddings, m the margin, τ the temperature, P_i the positives and N_i the
    negatives of anchor i:

        L_i = Σ_{p∈P_i} log(1 + Σ_{n∈N_i} exp((cos θ_in - cos(θ_ip - m)) / τ))

    The margin is a slack: a positive at the angle m counts as if it lay on the anchor, so that a class need
    not shrink to a point. The loss is about angles whatever ``similarity`` says. The terms are the positive
    pairs.

    Args:
        margin: m, an angle in radians in [0, π/2).
        temperature: τ (> 0), 1/s of the paper. Smaller: the nearest negatives decide more.

    Returns:
        One term per positive pair; 0 for an anchor without positives.

    Raises:
        NearfarError: if ``temperature`` or ``margin`` is out of range.

    Reference:
        Yu & Tao, ICCV 2019.
        https://openaccess.thecvf.com/content_ICCV_2019/html/Yu_Deep_Metric_Learning_With_Tuplet_Margin_Loss_ICCV_2019_paper.html
    """
    check_positive(temperature=temperature)
    if not 0 <= margin < torch.pi / 2:
        raise NearfarError(f"margin is an angle in radians, at least 0 and less than π/2; got {margin}.")
    (negatives,) = pairs.stream(LogSumExp(scale=1 / temperature))
    s = pairs.positives.similarity
    # cos(θ - m) without the inverse cosine; the subgradient of sin θ where two embeddings coincide is 0.
    square = 1 - s.square()
    apart = square > 0
    sine = torch.where(apart, square, 1.0).sqrt() * apart
    turned = s * cos(margin) + sine * sin(margin)
    each = softplus(pairs.of_anchor(negatives) - turned / temperature)
    return Terms(
        total=pairs.per_anchor(each, "sum"),
        count=pairs.positive_count,
        active=pairs.per_anchor((each > 0).to(each), "sum"),
    )
