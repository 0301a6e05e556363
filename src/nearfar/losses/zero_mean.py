"""The sum of an embedding's components, as a term of a sum of losses."""

from jaxtyping import Float
from torch import Tensor

from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.views import as_given
from nearfar.pairs import Pairs


@register_loss(needs="nothing", view=as_given, lengths=True, table=True)
def zero_mean(pairs: Pairs) -> Float[Tensor, " anchor"]:
    """Keep the components of each embedding around 0, so that their variance is their mean square.

    With x_im component m of the embedding as it was given, whatever the similarity:

        L_i = | Σ_m x_im |

    It belongs to ``snr_contrastive``: ``Sum({"snr_contrastive": 1.0, "zero_mean": 0.1})``.

    Returns:
        One value per anchor.

    Reference:
        Yuan et al., CVPR 2019. https://arxiv.org/abs/1904.02616
    """
    return pairs.block.anchors.sum(1).abs()
