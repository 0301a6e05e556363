"""Contrastive loss: positives up to one margin, negatives down to another."""

from typing import Literal

from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.losses.parts.registry import register_loss
from nearfar.losses.parts.terms import Terms
from nearfar.pairs import Pairs
from nearfar.similarity import Count, HingeSum, Measure, Negated, SquaredHingeSum
from nearfar.similarity.measure import is_product

defaults: dict[Measure, tuple[float, float]] = {
    "cosine": (1.0, 0.5),
    "euclidean": (0.0, 1.0),
    "squared_euclidean": (0.0, 1.0),
}


@register_loss(table=True)
def contrastive(
    pairs: Pairs,
    *,
    positive_margin: float | None = None,
    negative_margin: float | None = None,
    squared: bool = False,
    whole: bool = False,
    balance: Literal["none", "batch", "anchor"] = "none",
) -> Terms | tuple[Terms, Terms]:
    """Pull positives until they pass one margin, push negatives until they are under the other.

    With s_ij the similarity, m⁺ and m⁻ the margins, P_i the positives and N_i the negatives of anchor i:

        L_i = Σ_{j∈P_i} max(0, m⁺ - s_ij) + Σ_{j∈N_i} max(0, s_ij - m⁻)
        L_i = Σ_{j∈P_i} ½ max(0, m⁺ - s_ij)² + Σ_{j∈N_i} ½ max(0, s_ij - m⁻)²          squared

    With a Euclidean measure the margins are distances and the terms max(0, D_ij - m⁺), max(0, m⁻ - D_ij);
    squared with m⁺ = 0 this is the textbook form. The terms are the pairs.

    Args:
        positive_margin: m⁺; a positive nearer than this costs nothing. Default: 1 for the cosine, 0 for a
            distance.
        negative_margin: m⁻; a negative farther than this costs nothing. Default: 0.5 for the cosine, 1 for
            a distance.
        squared: half the square of each term.
        whole: a negative beyond the margin costs s_ij instead of s_ij - m⁻, so that the loss jumps by m⁻
            there; for parity with public code of the cross-batch memory paper. Same gradient.
        balance: "none" adds all pairs. "batch" averages positives and negatives each for themselves, over all
            anchors: with ``reduction="mean_active"`` as pytorch-metric-learning does. "anchor" averages each
            anchor's positives, and its negatives: as Deep_Metric does after mining.

    Returns:
        One term per pair, positives and negatives apart for ``balance="batch"``; one for each anchor's
        positives and one for its negatives with "anchor". 0 for an anchor with nothing to compare.

    Raises:
        NearfarError: if a margin is needed and not given, or ``whole`` meets ``squared``.

    Reference:
        Hadsell et al., CVPR 2006, eq. 4. Wang et al., CVPR 2020 (``whole``). https://arxiv.org/abs/1912.06798
    """
    if squared and whole:
        raise NearfarError("whole=True is the unsquared loss of one paper's code; set squared=False with it.")
    near, far = _margins(pairs.measure, positive_margin, negative_margin)
    hinge = SquaredHingeSum(far) if squared else HingeSum(far)
    lack = Negated(SquaredHingeSum(-near) if squared else HingeSum(-near))
    (beyond,), (short,) = pairs.both([hinge], [lack])
    plain = pairs.plain

    def lacking() -> Tensor:
        return plain.both([], [Negated(Count(above=-near))])[1][0]

    def passing() -> Tensor:
        return plain.stream(Count(above=far))[0]

    if squared:
        short, beyond = short / 2, beyond / 2
    if whole:
        beyond = beyond + far * passing()
    pull = Terms.counted(short, lambda: plain.positive_count, lacking)
    push = Terms.counted(beyond, lambda: plain.stream(Count())[0], passing)
    if balance == "batch":
        return pull, push
    if balance == "anchor":
        pull, push = _averaged(pull), _averaged(push)
    return Terms.counted(
        pull.total + push.total, lambda: pull.count + push.count, lambda: pull.active + push.active
    )


def _averaged(terms: Terms) -> Terms:
    """Make one term of all that an anchor has."""
    return Terms(
        total=terms.total / terms.count.clamp_min(1),
        count=(terms.count > 0).to(terms.count),
        active=(terms.active > 0).to(terms.active),
    )


def _margins(measure: Measure, near: float | None, far: float | None) -> tuple[float, float]:
    """Return both margins as similarities: a margin in distance is a negative similarity."""
    if measure not in defaults and (near is None or far is None):
        raise NearfarError(
            f"contrastive has no default margins for similarity={measure!r}; "
            "give positive_margin and negative_margin."
        )
    near = defaults[measure][0] if near is None else near
    far = defaults[measure][1] if far is None else far
    return (near, far) if is_product(measure) else (-near, -far)
