"""Squared distances from whatever is compared."""

from nearfar.pairs import Pairs


def squared_distance_scale(pairs: Pairs) -> float:
    """Return a such that -D² is a · similarity plus a constant: 2 for unit vectors, else 1."""
    return 2.0 if pairs.measure == "cosine" else 1.0
