"""What a loss compares, where its paper is not written on the similarity itself."""

from torch import Tensor

from nearfar.similarity import Measure, normalize
from nearfar.similarity.stable import full_precision


def distances(embeddings: Tensor, similarity: Measure) -> tuple[Tensor, Measure]:
    """Compare by the distance D itself: s = -D, of unit vectors for the cosine."""
    x = full_precision(embeddings)
    return (normalize(x) if similarity == "cosine" else x), "euclidean"


def cosine(embeddings: Tensor, similarity: Measure) -> tuple[Tensor, Measure]:  # noqa: ARG001, a view
    """Compare by the cosine, whatever was asked for: bins need similarities that lie between -1 and 1."""
    return embeddings, "cosine"


def as_given(embeddings: Tensor, similarity: Measure) -> tuple[Tensor, Measure]:  # noqa: ARG001, a view
    """Take the embeddings as they are, whatever was asked for."""
    return embeddings, "dot"
