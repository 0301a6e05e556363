"""Evaluation of embeddings on a device that is not the CPU: the result is that of the CPU."""

from typing import Any

import numpy as np
import pytest
import torch

from nearfar import evaluate
from problems import batch

X, Y = batch(classes=12, per_class=5, dim=16, spread=1.0)
QUERIES = 20
IDS = torch.arange(len(X))


def same(found: Any, expected: Any) -> None:
    """Equal in all that they hold."""
    if hasattr(expected, "__dataclass_fields__"):
        for name in expected.__dataclass_fields__:
            same(getattr(found, name), getattr(expected, name))
    else:
        np.testing.assert_equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_retrieval(device, similarity, dtype):
    x = X.to(dtype)
    expected = evaluate.retrieval(x, Y, ids=IDS, similarity=similarity)
    found = evaluate.retrieval(x.to(device), Y.to(device), ids=IDS.to(device), similarity=similarity)
    same(found, expected)


def test_retrieval_from_a_gallery(device):
    relevant = Y[:QUERIES, None] == Y[None, QUERIES:]
    junk = torch.zeros(len(X) - QUERIES, dtype=torch.bool)
    junk[3] = True
    told = {"gallery": X[QUERIES:], "relevant": relevant, "junk": junk, "cmc_length": 10}
    expected = evaluate.retrieval(X[:QUERIES], **told)
    there = {key: x.to(device) if isinstance(x, torch.Tensor) else x for key, x in told.items()}
    same(evaluate.retrieval(X[:QUERIES].to(device), **there), expected)
    distance = torch.cdist(X, X)
    same(
        evaluate.retrieval_by_distance(distance.to(device), Y.to(device)),
        evaluate.retrieval_by_distance(distance, Y),
    )


OTHERS = {
    "neighbours": lambda x, y: evaluate.neighbours(x, k=3),
    "neighbours in tiles": lambda x, y: evaluate.neighbours(x.float(), x[:9].float(), k=3, tile=4, workers=2),
    "verification": lambda x, y: evaluate.verification(
        (x[::2] * x[1::2]).sum(1), y[::2] == y[1::2], far=(0.1,)
    ),
    "clustering": evaluate.clustering,
    "space": evaluate.space,
    "rerank": lambda x, y: evaluate.k_reciprocal(x, k1=5, k2=2),
    "expanded queries": lambda x, y: evaluate.expand_queries(x[:QUERIES], x[QUERIES:]),
    "whitening": lambda x, y: evaluate.Whitening(x)(x),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_measures(device, name):
    same(OTHERS[name](X.to(device), Y.to(device)), OTHERS[name](X, Y))
