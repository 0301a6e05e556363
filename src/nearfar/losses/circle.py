"""Circle loss: pairs far from their goal pull and push harder."""

from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, Negated, softplus


@register_loss(needs="positive", table=True)
def circle(
    pairs: Pairs, *, margin: float = 0.4, temperature: float = 1 / 80, frozen: bool = False
) -> Float[Tensor, " anchor"]:
    """Compare all positives with all negatives, each weighed by how far it is from its goal.

    With s_ij the cosine, m the margin, τ the temperature, P_i the positives and N_i the negatives of anchor
    i, and [x]₊ = max(0, x):

        L_i = log( 1 + Σ_{n∈N_i} exp([s_in + m]₊ (s_in - m) / τ)
                       · Σ_{p∈P_i} exp(-[1 + m - s_ip]₊ (s_ip - 1 + m) / τ) )

    The paper takes the weights [·]₊ as constants when it derives the gradient, which then is not that of the
    value: s_in is driven to -m rather than to 0, and s_ip to 1 + m rather than to 1.

    Args:
        margin: m (> -1), in similarity. The paper has 0.25 for faces and persons, 0.4 for retrieval.
        temperature: τ (> 0), 1/γ of the paper: γ = 256 for faces, 128 for persons, 80 for retrieval.
        frozen: take the weights as constants for the gradient, as the paper does. Same value.

    Returns:
        One value per anchor; 0 for an anchor without positives or without negatives.

    Raises:
        NearfarError: if ``temperature`` is not positive.

    Reference:
        Sun et al., CVPR 2020, section 3. https://arxiv.org/abs/2002.10857
    """
    check_positive(temperature=temperature)
    if margin <= -1:
        raise NearfarError(f"margin must be above -1; got {margin}.")
    scale = 1 / temperature
    (push,), (pull,) = pairs.both(
        [LogSumExp(scale=scale, shift=margin, floor=-margin, frozen=frozen)],
        [Negated(LogSumExp(scale=scale, shift=margin - 1, floor=-1 - margin, frozen=frozen))],
    )
    return softplus(pull + push)
