"""What lies near either end of a pair: the anchor's negatives, and the candidate's."""

from jaxtyping import Float
from torch import Tensor

from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp


def near_both_ends(
    pairs: Pairs, *, shift: float = 0.0
) -> tuple[Float[Tensor, " anchor"], Float[Tensor, " candidate"]]:
    """Return log Σ exp(s - shift) over each anchor's negatives, and over each candidate's.

    A candidate's negatives are the anchors that it is a negative of. In a batch against itself the candidates
    are the anchors: then the two are one, and mining may choose negatives for each anchor in any way.
    """
    if pairs.block.relation.symmetric:
        (row,) = pairs.stream(LogSumExp(scale=1.0, shift=shift))
        return row, row
    row, column = pairs.stream(
        LogSumExp(scale=1.0, shift=shift), LogSumExp(scale=1.0, shift=shift, per="candidate")
    )
    return row, column
