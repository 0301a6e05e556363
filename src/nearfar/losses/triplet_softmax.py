"""Triplet softmax: of two distances, the one to the positive should be the small one."""

from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.losses.parts.views import distances
from nearfar.pairs import Pairs
from nearfar.similarity import Count, SigmoidSquareSum


@register_loss(reduction="mean_terms", view=distances, table="short")
def triplet_softmax(pairs: Pairs) -> Terms:
    """Compare the distances to a positive and to a negative by a softmax, and square what the positive gets.

    With D_ij the distance, P_i the positives and N_i the negatives of anchor i:

        L_i = Σ_{p∈P_i} Σ_{n∈N_i} d⁺²    with    d⁺ = exp(D_ip) / (exp(D_ip) + exp(D_in)) = σ(D_ip - D_in)

    averaged over the triplets. The squared error |(d⁺, d⁻) - (0, 1)|² of the paper is 2 d⁺²; its authors'
    code and the same net in Caffe average it over both outputs, which gives d⁺². The distance is not
    squared, and is that of unit vectors when the similarity is the cosine; the authors do not normalise
    (``similarity="euclidean"``). Without mining all triplets count, and no list of them is made.

    Returns:
        One term per triplet, in (0, 1); 0 for an anchor without positives or without negatives.

    Reference:
        Hoffer & Ailon, SIMBAD 2015, section 2. https://arxiv.org/abs/1412.6622
    """
    share, count = pairs.stream(
        SigmoidSquareSum(pairs.positives.similarity, per="positive"), Count(per="positive")
    )
    triplets = pairs.per_anchor(count, "sum")
    return Terms(total=pairs.per_anchor(share, "sum"), count=triplets, active=triplets)
