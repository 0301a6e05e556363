"""NT-Xent loss: name each positive among the negatives, at a temperature."""

import torch

from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, Negated, SoftplusSum


@register_loss(reduction="mean_terms", needs="positive", table=True)
def ntxent(pairs: Pairs, *, temperature: float = 0.1) -> Terms:
    """Classify each positive against all negatives of its anchor.

    With s_ij the similarity, τ the temperature, P_i the positives and N_i the negatives of anchor i:

        L_i = -Σ_{p∈P_i} log( exp(s_ip/τ) / (exp(s_ip/τ) + Σ_{n∈N_i} exp(s_in/τ)) )

    An anchor's other positives do not enter a pair's denominator (those of ``supcon`` do). The terms are the
    positive pairs; two views of each image are labels that occur twice.

    Args:
        temperature: τ (> 0). Smaller: the nearest negatives decide more.

    Returns:
        One term per positive pair; 0 for an anchor without positives.

    Raises:
        NearfarError: if ``temperature`` is not positive.

    Reference:
        Chen et al., ICML 2020, eq. 1. https://arxiv.org/abs/2002.05709
    """
    check_positive(temperature=temperature)
    (negatives,) = pairs.stream(LogSumExp(scale=1 / temperature))
    # log(1 + e^(z_n - z_p)) as a curve of s_p, whose bend is where the negatives are.
    curve = SoftplusSum(-temperature * negatives, 1 / temperature)
    _, (total,) = pairs.both([], [Negated(curve)])
    count = pairs.positive_count
    return Terms(total=total / temperature, count=count, active=count * (negatives > -torch.inf))
