"""Proxy-Anchor: every proxy pulls its hardest positives of the batch and pushes its hardest negatives."""

import torch

from nearfar.losses.parts.limits import check_positive
from nearfar.losses.parts.proxies import Proxies, by_class, kaiming_fan_out
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, softplus


@register_loss(reduction="mean_valid", proxies=Proxies(kaiming_fan_out, over="class"))
def proxy_anchor(pairs: Pairs, *, margin: float = 0.1, alpha: float = 32.0) -> tuple[Terms, Terms]:
    """Sum over the batch for each proxy, instead of over the proxies for each embedding.

    With s_ic the similarity of embedding i with the proxy of class c, P_c the embeddings of the batch that
    are of class c, N_c all others, and C+ the classes that the batch has:

        L_i = pull_c + push_c, one value for each class c instead of each anchor i
        pull_c = log(1 + Σ_{i∈P_c} exp(-α(s_ic - δ)))
        push_c = log(1 + Σ_{i∈N_c} exp(α(s_ic + δ)))
        L = 1/|C+| Σ_{c∈C+} pull_c + 1/|C| Σ_c push_c

    ``reduction="none"`` gives pull + push of each class; weights are of classes (``class_weights=…``). With
    ``sample=…`` the second mean is over the classes chosen. The proxies start as normal deviates of variance
    2/|C| (He initialisation by fan-out).

    Args:
        margin: δ, the similarity that positives are to exceed and negatives to stay below the negative of.
        alpha: α (> 0). Larger: the hardest embedding of each proxy decides more.

    Returns:
        Pull and push of each class.

    Raises:
        NearfarError: if ``alpha`` is not positive.

    Reference:
        Kim et al., CVPR 2020. https://arxiv.org/abs/2003.13911
    """
    check_positive(alpha=alpha)
    near, far = by_class(pairs, LogSumExp(scale=alpha, shift=-margin), LogSumExp(scale=-alpha, shift=margin))
    push, pull = softplus(near), softplus(far)
    here = torch.zeros_like(push).index_fill(0, pairs.positives.candidate, 1.0)
    return (
        Terms(total=pull, count=here, active=(pull.detach() != 0).to(pull)),
        Terms(total=push, count=torch.ones_like(push), active=(push.detach() != 0).to(push)),
    )
