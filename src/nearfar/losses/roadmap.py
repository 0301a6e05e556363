"""ROADMAP: average precision bounded from above, and a calibration that every batch agrees on."""

from math import exp

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.ranks import positives_at_least
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import Count, HingeSum, Reduction, SigmoidSum


@register_loss(reduction="mean_valid", needs="positive", table="short")
def roadmap(
    pairs: Pairs,
    *,
    temperature: float = 0.01,
    slope: float = 100.0,
    bend: float = 0.05,
    step: float = 0.5,
    offset: float | None = None,
    calibration: float = 0.5,
    positive_margin: float = 0.9,
    negative_margin: float = 0.6,
) -> Float[Tensor, " anchor"]:
    """Raise a lower bound of each anchor's average precision, and put similarities on one scale.

    With s_ij the similarity, P_i the positives and N_i the negatives of anchor i, H the unit step (1 at 0),
    τ the temperature, ρ the slope, δ the bend, λ the weight, α and β the margins of the calibration:

        H⁻(t) = σ(t/τ)  for t <= 0;   σ(t/τ) + 1/2  for 0 < t <= δ;   ρ (t - δ) + o  for t > δ
        r⁺_ip = 1 + Σ_{q∈P_i, q≠p} H(s_iq - s_ip),   r⁻_ip = Σ_{j∈N_i} H⁻(s_ij - s_ip)
        SupAP_i = 1 - 1/|P_i| Σ_{p∈P_i} r⁺_ip / (r⁺_ip + r⁻_ip)
        cal_i = 1/|P_i| Σ_{p∈P_i} max(0, α - s_ip) + 1/|N_i| Σ_{j∈N_i} max(0, s_ij - β)
        L_i = (1 - λ) SupAP_i + λ cal_i

    H⁻ is never below the step that it stands for, so that SupAP is never below 1 - AP; and its gradient does
    not vanish for a negative far ahead of a positive. r⁺ is a true count: no gradient.

    Classes may be of any size. Every positive is compared with every negative of its anchor: that work is
    inherent, but none of it is stored. Counts of positives come from sorting.

    Args:
        temperature: τ (> 0), in units of the similarity.
        slope: ρ (>= 0), of the straight part.
        bend: δ (>= 0), where the straight part begins.
        step: the 1/2 above: how much H⁻ rises at 0.
        offset: o, where the straight part starts; None joins it on, o = σ(δ/τ) + 1/2. The authors' settings
            have 1.44, and for iNaturalist ``step=0.0, offset=1.0``.
        calibration: λ in [0, 1]; 0 leaves SupAP alone.
        positive_margin: α, the similarity positives should have.
        negative_margin: β, the similarity negatives should stay under.

    Returns:
        One value per anchor; 0 for an anchor without positives. The mean is over anchors that have one.
        The authors' code averages the calibration over the pairs that it acts on, and adds it with weight 1:
        that is the sum of ``roadmap`` with ``calibration=0.0`` and of ``contrastive`` with these margins and
        ``balance="batch"``.

    Raises:
        NearfarError: if a setting is out of range.

    Reference:
        Ramzi et al., NeurIPS 2021. https://arxiv.org/abs/2110.01445
    """
    check_positive(temperature=temperature)
    if slope < 0 or bend < 0:
        raise NearfarError(f"slope and bend must not be negative; got slope={slope}, bend={bend}.")
    if not 0 <= calibration <= 1:
        raise NearfarError(f"calibration must lie between 0 and 1; got {calibration}.")
    s, plain = pairs.positives.similarity, pairs.positives.similarity.detach()
    jump = 0.0 if offset is None else offset - step - 1 / (1 + exp(-bend / temperature))
    asked: list[Reduction] = [
        SigmoidSum(s, 1 / temperature, bend, per="positive"),
        HingeSum(s + bend, per="positive"),
        Count(above=plain, per="positive"),
    ]
    if jump:
        asked.append(Count(above=plain + bend, per="positive"))
    if calibration:
        asked += [HingeSum(negative_margin), Count()]
    soft, straight, ahead, *rest = pairs.stream(*asked)
    negatives = soft + slope * straight + step * ahead
    if jump:
        negatives = negatives + jump * rest.pop(0)
    rank = 1 + positives_at_least(pairs)
    count = pairs.positive_count
    value = pairs.per_anchor(negatives / (rank + negatives), "sum") / count.clamp_min(1)
    if calibration:
        push, number = rest
        pull = pairs.per_anchor((positive_margin - s).relu(), "sum") / count.clamp_min(1)
        value = (1 - calibration) * value + calibration * (pull + push / number.clamp_min(1))
    return torch.where(count > 0, value, 0.0)
