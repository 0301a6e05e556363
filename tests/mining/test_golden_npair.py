"""Relative mining against the selections of the Caffe N-pair layer."""

import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar.pairs import Pairs
from nearfar.similarity import TopK
from problems import BACKENDS, golden_folder

CASES = sorted((golden_folder / "losses" / "npair").glob("*.npz"))
METHODS = {"RAND": "all"}
REGIONS = {"LOCAL": "anchor", "GLOBAL": "batch"}


def test_there_are_cases():
    assert len(CASES) == 15


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_same_selection(path, backend):
    case = np.load(path)
    config = json.loads(str(case["config"]))
    x, labels = torch.tensor(case["embeddings"]), torch.tensor(case["labels"]).long()
    n = len(x)
    expected = np.unpackbits(case["selected_bits"], axis=1)[:, : n * n].reshape(-1, n, n).astype(bool)
    pairs = Pairs.within(x, labels, similarity="dot", backend=backend)
    every = 4 if backend == "dense" else 16  # the others against `dense` elsewhere
    for row in range(CASES.index(path) % every, len(expected), every):
        rule = nearfar.mining.create(parity(case["params"][row].tolist(), config))
        assert (selected(rule(pairs)) == expected[row]).all(), (rule, case["gap"][row])


def parity(parameters: list[float], config: dict) -> dict:
    """Translate the layer's parameters, which are float32, into settings of the rule."""
    layer = dict(zip(config["param_columns"], parameters, strict=True))

    def method(key: str) -> str:
        name = config["methods"][int(layer[key])]
        return METHODS.get(name, name.lower())

    return {
        "name": "relative",
        "positive_method": method("ap_method"),
        "negative_method": method("an_method"),
        "positive_over": REGIONS[config["regions"][int(layer["ap_region"])]],
        "negative_over": REGIONS[config["regions"][int(layer["an_region"])]],
        "keep_positives": layer["identsn"],
        "keep_negatives": layer["diffsn"],
        "positive_shift": layer["margin_ident"],
        "negative_shift": layer["margin_diff"],
        "ranking": "caffe",
        "negative_threshold": "all",
    }


def selected(pairs: Pairs) -> np.ndarray:
    """Return which pairs are left, as a mask [anchor, candidate]."""
    mask = torch.zeros(len(pairs), len(pairs) + 1, dtype=torch.bool)
    mask[pairs.positives.anchor, pairs.positives.candidate] = True
    (columns,) = pairs.stream(TopK(len(pairs)))
    mask.scatter_(1, columns.masked_fill(columns < 0, len(pairs)), True)
    return mask[:, : len(pairs)].numpy()
