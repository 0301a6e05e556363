"""Centre loss: each embedding near the learned centre of its class."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.proxies import Proxies, normal, own_class
from nearfar.losses.parts.registry import register_loss
from nearfar.pairs import Pairs


@register_loss(
    needs="positive",
    proxies=Proxies(normal(1.0), measures=("cosine", "squared_euclidean"), squared=True, sampled=False),
    separable=False,
)
def center(pairs: Pairs, *, gradient: Literal["true", "paper"] = "true") -> Float[Tensor, " anchor"]:
    """Half the squared distance to the centre of the own class; nothing keeps classes apart.

    With w_y the centre of the class of embedding i, both scaled to unit length for the cosine:

        L_i = 1/2 |x_i - w_y|²

    It belongs beside a loss that separates classes: ``Sum({"arcface": 1.0, "center": 0.003})``. The paper has
    embeddings of any length: ``similarity="squared_euclidean"``. Centres start as normal deviates.

    Args:
        gradient: what the centres get. "true": the gradient of the value. "paper": with n_c the embeddings
            of class c in the batch of n, n/(1 + n_c) times that, so that plain SGD at the rate α with
            ``reduction="mean"`` moves them as the paper does: Δw_c = α Σ (x_i - w_c) / (1 + n_c).

    Returns:
        One value per anchor.

    Reference:
        Wen et al., ECCV 2016 (the move of the centres is its eq. 4). https://ydwen.github.io/papers/WenECCV16.pdf
    """
    own = own_class(pairs)
    centre = own.candidates[:, 0]
    if gradient == "paper":
        place = pairs.positives.candidate
        ordered = place.sort().values
        count = torch.searchsorted(ordered, place, right=True) - torch.searchsorted(ordered, place)
        factor = (len(pairs) / (1 + count)).to(centre)[:, None]
        plain = centre.detach()
        centre = plain + factor * (centre - plain)
    return (own.anchors - centre).square().sum(1) / 2
