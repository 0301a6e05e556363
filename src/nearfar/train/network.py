"""What embeds a batch in training: the embedder, to unit length or not."""

from jaxtyping import Float
from torch import Tensor, nn

from nearfar.losses import Loss, Sum
from nearfar.models import Embedder


class Projected(nn.Module):
    """An embedder without its last step: embeddings as long as the head makes them."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n dim"]:
        """Return float32 embeddings of images in [0, 1]."""
        return self.embedder.project(images)


def network_for(embedder: Embedder, loss: Loss | Sum) -> nn.Module:
    """Return what makes the embeddings that a loss is to see: of unit length, unless it looks at lengths."""
    return Projected(embedder) if loss.reads_lengths else embedder
