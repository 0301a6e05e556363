"""The settings of the published loss layers, checked, with the defaults of their proto."""

from typing import Any

from nearfar.caffe.graph import Layer, choice

# The words of the proto, in its order, and what mining by ``relative`` calls the same.
REGIONS = {"GLOBAL": "batch", "LOCAL": "anchor"}
METHODS = {
    "HARD": "hard",
    "EASY": "easy",
    "RAND": "all",
    "RELATIVE_HARD": "relative_hard",
    "RELATIVE_EASY": "relative_easy",
}

_NPAIR_NUMBERS = {"margin_ident": 0.0, "margin_diff": 0.0, "identsn": -1.0, "diffsn": -1.0}
_NPAIR_WORDS = {
    "ap_mining_region": (tuple(REGIONS), "LOCAL"),
    "ap_mining_method": (tuple(METHODS), "RAND"),
    "an_mining_region": (tuple(REGIONS), "LOCAL"),
    "an_mining_method": (tuple(METHODS), "RAND"),
}
_RANK_WHOLES = {"neg_num": 1, "pair_size": 1}
_RANK_NUMBERS = {"hard_ratio": 0.0, "rand_ratio": 0.0, "margin": 0.5}


def npair_settings(layer: Layer) -> dict[str, Any]:
    """Return all settings of an NPairMultiClassLoss.

    Raises:
        PrototxtError: if one is misspelt or of the wrong kind.
    """
    given = layer.settings("npair_loss_param", (*_NPAIR_NUMBERS, *_NPAIR_WORDS))
    numbers = {name: given.number(name, default) for name, default in _NPAIR_NUMBERS.items()}
    return numbers | {name: choice(given, name, *words) for name, words in _NPAIR_WORDS.items()}


def rank_settings(layer: Layer) -> dict[str, Any]:
    """Return all settings of a RankHardLoss.

    Raises:
        PrototxtError: if one is misspelt or of the wrong kind.
    """
    given = layer.settings("rank_param", (*_RANK_WHOLES, *_RANK_NUMBERS))
    wholes = {name: given.whole(name, default) for name, default in _RANK_WHOLES.items()}
    return wholes | {name: given.number(name, default) for name, default in _RANK_NUMBERS.items()}
