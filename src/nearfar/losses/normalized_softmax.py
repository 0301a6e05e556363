"""Normalised softmax: classify each embedding among one learned vector per class."""

from jaxtyping import Float
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.proxies import Proxies, about_unit
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs
from nearfar.similarity import Count, LogSumExp, Sum, softplus


@register_loss(needs="positive", proxies=Proxies(about_unit))
def normalized_softmax(
    pairs: Pairs, *, temperature: float = 0.05, smoothing: float = 0.0
) -> Float[Tensor, " anchor"]:
    """Cross-entropy over the similarities of an embedding to the classes' proxies.

    With z_ic = s(x_i, w_c)/τ the logit of proxy w_c, C their number and ε the smoothing:

        L_i = -(1-ε) log softmax(z_i)_{y_i} - ε/C Σ_c log softmax(z_i)_c

    The proxies are learned with the network and left behind after training. They start as normal deviates of
    about unit length.

    Args:
        temperature: τ (> 0). Smaller: the nearest proxies decide more.
        smoothing: ε in [0, 1), the share of the target that is spread over all classes.

    Returns:
        One value per anchor.

    Raises:
        NearfarError: if ``temperature`` or ``smoothing`` is out of range.

    Reference:
        Zhai & Wu, BMVC 2019. https://arxiv.org/abs/1811.12649
    """
    check_positive(temperature=temperature)
    if not 0 <= smoothing < 1:
        raise NearfarError(f"smoothing must be at least 0 and less than 1; got {smoothing}.")
    own = pairs.positives.similarity / temperature
    if smoothing == 0:
        (others,) = pairs.stream(LogSumExp(scale=1 / temperature))
        return softplus(others - own)
    others, total, count = pairs.stream(LogSumExp(scale=1 / temperature), Sum(), Count())
    mean = (total / temperature + own) / (count + 1)
    return softplus(others - own) + smoothing * (own - mean)
