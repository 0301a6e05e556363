"""Counts of easy, semi-hard and hard triplets against loops over all of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import NearfarError
from nearfar.offline import Triplets, count_triplets
from nearfar.offline.triplets import blocks, kinds_of

GOLDEN = sorted((Path(__file__).parent.parent / "golden/losses/triplet_mining").glob("*.npz"))


def by_definition(x: torch.Tensor, labels, margin: float, measure: str) -> Triplets:
    """v = D_an - D_ap in float64: hard v <= 0, semi-hard 0 < v <= m, easy v > m."""
    x = x.double()
    if measure == "cosine":
        x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-300)
    counts = [0, 0, 0]
    n = len(x)

    def distance(i: int, j: int) -> float:
        match measure:
            case "cosine" | "dot":
                return -float(x[i] @ x[j])
            case "euclidean":
                return float((x[i] - x[j]).square().sum().sqrt())
            case _:
                return float((x[i] - x[j]).square().sum())

    for a in range(n):
        for p in range(n):
            if p == a or labels[p] != labels[a]:
                continue
            for q in range(n):
                if labels[q] == labels[a]:
                    continue
                v = distance(a, q) - distance(a, p)
                counts[2 if v <= 1e-12 else 1 if v <= margin + 1e-12 else 0] += 1
    return Triplets(*counts)


@pytest.mark.parametrize("backend", ["reference", "dense", "tiled"])
@pytest.mark.parametrize("measure", ["cosine", "dot", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("grid", [False, True])
def test_against_loops(measure, backend, grid):
    """On a grid many similarities are equal, and v falls on 0 and on the margin exactly."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(21, 4, generator=generator)
    if grid and measure != "cosine":
        x = (2 * x).round() / 2
    elif grid:
        x = torch.eye(4)[torch.randint(4, (21,), generator=generator)]
    labels = torch.tensor([0] * 6 + [1] * 5 + [2] * 4 + [3] * 3 + [4] * 2 + [5])[
        torch.randperm(21, generator=generator)
    ]
    expected = by_definition(x, labels, 0.5, measure)
    assert count_triplets(x, labels, margin=0.5, similarity=measure, backend=backend) == expected
    sizes = torch.bincount(labels).tolist()
    assert expected.total == sum(size * (size - 1) * (21 - size) for size in sizes)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden(path):
    z = np.load(path)
    config = json.loads(str(z["config"]))
    x, labels = torch.from_numpy(z["embeddings"]), torch.from_numpy(z["labels"]).long()
    found = count_triplets(x, labels, margin=config["margin"], similarity=config["distance"])
    assert found == Triplets(len(z["easy"]), len(z["semihard"]), len(z["hard"]))


def test_by_hand():
    """One triplet a pair: s_ap = 0.8, s_an = 0.6 and 0 (the mirrored pair)."""
    x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, -0.8]])
    labels = torch.tensor([0, 0, 1])
    assert count_triplets(x, labels, margin=0.3) == Triplets(easy=1, semi_hard=1, hard=0)
    assert count_triplets(x, labels, margin=0.1) == Triplets(easy=2, semi_hard=0, hard=0)
    assert count_triplets(x[[0, 0, 0]], labels) == Triplets(easy=0, semi_hard=0, hard=2)


@given(st.integers(0, 30), st.integers(1, 40))
@settings(deadline=None, max_examples=25)
def test_blocks_and_order_change_nothing(seed, listed):
    generator = torch.Generator().manual_seed(seed)
    x, labels = torch.randn(24, 3, generator=generator), torch.randint(5, (24,), generator=generator)
    whole = kinds_of(next(iter(blocks(x, labels))), 0.2)
    parted = list(blocks(x, labels, listed=listed))
    positives = [len(pairs.positives.similarity) for pairs in parted]
    assert all(count <= listed + 23 for count in positives)  # the anchor that fills a block goes with it
    assert len(parted) >= sum(positives) / (listed + 23)
    parts = np.concatenate([kinds_of(pairs, 0.2) for pairs in parted])
    assert (whole == parts).all()
    order = torch.randperm(24, generator=generator)
    assert count_triplets(x[order], 90 - 7 * labels[order]) == count_triplets(x, labels)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [0], []])
def test_no_triplet(labels):
    x = torch.zeros(len(labels), 4)
    assert count_triplets(x, torch.tensor(labels, dtype=torch.int64)).total == 0


def test_what_does_not_fit():
    with pytest.raises(NearfarError, match="a positive margin; got 0"):
        count_triplets(torch.eye(3), torch.tensor([0, 0, 1]), margin=0)
    with pytest.raises(NearfarError, match="labels has 2 rows but there are 3"):
        count_triplets(torch.eye(3), torch.tensor([0, 0]))
