"""SoftTriple: a class is several centres, softly; triplets without sampling them."""

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.limits import check_not_negative, check_positive
from nearfar.losses.parts.proxies import Proxies, all_vectors, per_vector, uniform_by_count
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, softplus


@register_loss(
    needs="positive",
    proxies=Proxies(
        uniform_by_count, measures=("cosine",), centres="centres", sharpness="centre_temperature"
    ),
)
def soft_triple(
    pairs: Pairs,
    *,
    centres: int = 10,
    temperature: float = 1 / 20,
    margin: float = 0.01,
    centre_temperature: float = 0.1,  # noqa: ARG001, read where the proxies are compared
    merging: float = 0.2,
) -> Float[Tensor, " anchor"]:
    """Cross-entropy over soft similarities to classes of K centres, and a pull that merges needless centres.

    With w_ck centre k of class c, all of unit length, and C the number of classes:

        S_ic = Σ_k p_k <x_i, w_ck>,   p = softmax_k(<x_i, w_ck>/γ)
        L_i = -log( exp((S_iy - δ)/τ) / (exp((S_iy - δ)/τ) + Σ_{c≠y} exp(S_ic/τ)) ) + R
        R = κ/(C K (K-1)) Σ_c Σ_{k<l} |w_ck - w_cl|

    R is the same for every anchor, so that a mean has it once. ``loss.proxies`` is [class · K, dim]: the
    centres of class c are the rows c·K … c·K + K - 1. They start uniformly within ±1/√(C·K). R holds the unit
    centres and their gradient; everything else streams. At κ = 0 nothing of the size of the centres is held
    beside their gradient. With ``sample=…`` R is over the classes chosen.

    Args:
        centres: K (>= 1).
        temperature: τ (> 0), the inverse of the paper's λ.
        margin: δ.
        centre_temperature: γ (> 0); smaller: the nearest centre decides more.
        merging: κ (>= 0), the paper's τ.

    Returns:
        One value per anchor.

    Raises:
        NearfarError: if a setting is out of range.

    Reference:
        Qian et al., ICCV 2019. https://arxiv.org/abs/1909.05235
    """
    check_positive(temperature=temperature)
    check_not_negative(margin=margin, merging=merging)
    (others,) = pairs.stream(LogSumExp(scale=1 / temperature))
    value = softplus(others - (pairs.positives.similarity - margin) / temperature)
    if merging == 0 or centres == 1:
        return value
    return value + merging * _apart(pairs) / (centres - 1)


def _apart(pairs: Pairs) -> Float[Tensor, ""]:
    """1/(C K) Σ_c Σ_{k<l} |w_ck - w_cl|."""
    vectors, centres = all_vectors(pairs)
    each = vectors.view(-1, centres, vectors.shape[1])
    apart = torch.cdist(each, each, compute_mode="donot_use_mm_for_euclid_dist")
    return per_vector(pairs, apart.sum() / 2)
