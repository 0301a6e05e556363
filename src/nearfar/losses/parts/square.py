"""Squared distances and lengths of whatever is compared."""

from jaxtyping import Float
from torch import Tensor

from nearfar.pairs import Pairs
from nearfar.positive_table import PositiveTable
from nearfar.similarity.stable import taken
from nearfar.similarity.stored import columns


def squared_distance_scale(pairs: Pairs) -> float:
    """Return a such that -D² is a · similarity plus a constant: 2 for unit vectors, else 1."""
    return 2.0 if pairs.measure == "cosine" else 1.0


def squares_of_candidates(pairs: Pairs) -> Float[Tensor, "*positive"]:
    """Return the squared length of each positive pair's candidate; of many, each that is a positive once."""
    kept = pairs.positives
    if isinstance(kept, PositiveTable):
        return pairs.of_candidate(pairs.block.parts[0].square().sum(1))
    some, place = kept.candidate.unique(return_inverse=True)
    return taken(columns(*pairs.block.parts)[some].square().sum(1), place)
