"""The few nearest negatives of each anchor."""

from nearfar.errors import NearfarError
from nearfar.mining.places import at_most, places
from nearfar.mining.registry import register_rule
from nearfar.pairs import Pairs
from nearfar.similarity import TopK


@register_rule(table=True)
def top_k(pairs: Pairs, *, keep_negatives: int = 10, keep_positives: int | None = None) -> Pairs:
    """Keep, for each anchor, its k most similar negatives, and all or its k least similar positives.

    Args:
        keep_negatives: k (>= 1); an anchor that has fewer keeps them all.
        keep_positives: how many of the least similar positives to keep (>= 1); None keeps them all.

    Raises:
        NearfarError: if either is less than 1.
    """
    if keep_negatives < 1 or (keep_positives is not None and keep_positives < 1):
        raise NearfarError(
            f"top_k keeps 1 or more of each kind; got keep_negatives={keep_negatives}, "
            f"keep_positives={keep_positives}."
        )
    if keep_positives is not None:
        pairs = pairs.short(wait=False)
    (columns,) = pairs.stream(TopK(at_most(pairs, keep_negatives)))
    keep = None if keep_positives is None else places(pairs, pairs.positives.plain) < keep_positives
    return pairs.narrow(positives=keep, columns=columns)
