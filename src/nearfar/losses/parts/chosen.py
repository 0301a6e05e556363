"""Negatives that mining has named one by one, for losses that look at them from two sides."""

from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.pairs import Pairs
from nearfar.similarity import TopK
from nearfar.similarity.tiled.similarities import at_pairs


def named_negatives(pairs: Pairs) -> Int[Tensor, "*positive k"] | None:
    """List the negatives that mining has named for each positive pair, -1 for none.

    Returns:
        None where mining has named none, so that every negative counts.
    """
    if pairs.chosen is None:
        return None
    anchor = pairs.positives.anchor
    if not len(anchor):
        return anchor.new_full((0, 1), -1)
    (columns,) = pairs.stream(TopK(max(1, pairs.chosen.columns.shape[-1]), per="positive"))
    return columns


def refuse_thresholds(pairs: Pairs, loss: str) -> None:
    """Refuse mining by thresholds, which says nothing of how near a negative is to anyone but the anchor.

    Raises:
        NearfarError: if a threshold has narrowed the negatives.
    """
    if pairs.interval and pairs.chosen is None:
        raise NearfarError(
            f"{loss} compares a negative with others than the anchor, so thresholds on the anchor's own "
            "similarities cannot mine for it; use a rule that names negatives, such as 'hard', or none."
        )


def from_anchor(pairs: Pairs, columns: Int[Tensor, "*positive k"]) -> Float[Tensor, "*positive k"]:
    """Similarity of each positive pair's anchor with the candidates named for it; differentiable."""
    anchor = pairs.positives.anchor[..., None].expand_as(columns)
    s = pairs.block.at(anchor.reshape(-1), columns.clamp_min(0).reshape(-1))
    return s.view(columns.shape)


def from_positive(pairs: Pairs, columns: Int[Tensor, "*positive k"]) -> Float[Tensor, "*positive k"]:
    """Similarity of each positive pair's *positive* with the candidates named for it; differentiable."""
    block = pairs.block
    positive = pairs.positives.candidate[..., None].expand_as(columns).reshape(-1)
    column = columns.clamp_min(0).reshape(-1)
    if block.relation.symmetric:
        s = block.at(positive, column)
    else:
        given, stored = block.parts
        s = at_pairs(given, given, positive, column, block.measure, (stored, stored))
    return s.view(columns.shape)
