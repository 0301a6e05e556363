"""Multi-similarity mining: pairs that break the order of an anchor's hardest pair of the other kind."""

from nearfar.kept import Against
from nearfar.mining.registry import register_rule
from nearfar.pairs import Pairs
from nearfar.similarity import Max


@register_rule(table=True)
def multi_similarity(pairs: Pairs, *, epsilon: float = 0.1) -> Pairs:
    """Keep negatives nearer than the farthest positive, and positives farther than the nearest negative.

    With ε of leeway:

        j∈N_i kept when s_ij + ε > min_{p∈P_i} s_ip,   j∈P_i kept when s_ij - ε < max_{n∈N_i} s_in

    An anchor without positives keeps no negative, one without negatives keeps no positive.

    Args:
        epsilon: ε, in units of the similarity. Larger: more pairs.

    Reference:
        Wang et al., CVPR 2019, eq. 7 and 8. https://arxiv.org/abs/1904.06627
    """
    s = pairs.positives.plain
    # Of the negatives that are kept the nearest is the nearest of all; where none is kept, no positive is.
    return pairs.narrow(
        positives=Against(Max(), lambda nearest: s - epsilon < pairs.of_anchor(nearest)),
        above=pairs.per_anchor(s, "min") - epsilon,
    )
