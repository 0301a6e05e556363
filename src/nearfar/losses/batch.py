"""What a loss is called with, by one rank or, put together, by all of them."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from nearfar.inputs import Labels


@dataclass(frozen=True, eq=False)
class Batch:
    """The arguments of a loss; see ``Loss.forward``."""

    embeddings: Float[Tensor, "n dim"]
    labels: Labels
    candidates: Float[Tensor, "m dim"] | None = None
    candidate_labels: Int[Tensor, " m"] | Int[Tensor, "m tag"] | None = None
    weights: Float[Tensor, " n"] | None = None
    ids: Int[Tensor, " n"] | None = None
    candidate_ids: Int[Tensor, " m"] | None = None
