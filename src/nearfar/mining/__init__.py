"""Mining rules by name: which comparisons of a batch a loss should see.

A rule is a function ``rule(pairs, **settings) -> Pairs`` that narrows; any loss reads what is left.
"""

from nearfar.mining import all_pairs, hard, multi_similarity, semi_hard
from nearfar.mining.registry import Rule, create, describe, names, register_rule, settings

__all__ = [
    "Rule",
    "all_pairs",
    "create",
    "describe",
    "hard",
    "multi_similarity",
    "names",
    "register_rule",
    "semi_hard",
    "settings",
]
