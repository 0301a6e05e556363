"""No mining: every pair counts."""

from nearfar.mining.registry import register_rule
from nearfar.pairs import Pairs


def all_pairs(pairs: Pairs) -> Pairs:
    """Keep every positive and every negative: the same as no mining."""
    return pairs


all_pairs.__name__ = "all"
register_rule(all_pairs)
