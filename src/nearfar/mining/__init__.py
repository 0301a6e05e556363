"""Mining rules by name: which comparisons of a batch a loss should see.

A rule is a function ``rule(pairs, **settings) -> Pairs`` that narrows; any loss reads what is left.
"""

from nearfar.mining import (
    all_pairs,
    distance_weighted,
    easy,
    easy_positive,
    hard,
    interval,
    multi_similarity,
    random,
    relative,
    semi_hard,
    top_k,
)
from nearfar.mining.registry import Rule, create, describe, names, register_rule, settings

__all__ = [
    "Rule",
    "all_pairs",
    "create",
    "describe",
    "distance_weighted",
    "easy",
    "easy_positive",
    "hard",
    "interval",
    "multi_similarity",
    "names",
    "random",
    "register_rule",
    "relative",
    "semi_hard",
    "settings",
    "top_k",
]
