"""What pytorch-metric-learning 2.9 does where it is not right, and what nearfar does there.

``docs/beside-pml.md`` is the table of these tests and of those in ``test_pml_training.py`` and
``losses/test_ranking_peers.py``.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_metric_learning import distances, losses
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import nearfar
from nearfar.errors import NearfarError
from problems import batch

COSINE = distances.CosineSimilarity()


def classes(count: int, size: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows in order of their classes, overlapping enough that nothing is 0."""
    x, labels = batch(count, size, 6, spread=1.2, seed=seed)
    order = labels.argsort(stable=True)
    return x[order].requires_grad_(), labels[order]


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [x.numel() for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.numbers = max(self.numbers, *made, 0)
        return result


def largest(loss: Callable[..., Tensor], x: Tensor, labels: Tensor) -> int:
    with Largest() as seen:
        loss(x, labels).backward()
    return seen.numbers


# Memory


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (losses.NTXentLoss(temperature=0.1), nearfar.losses.create("ntxent", temperature=0.1)),
        (losses.LiftedStructureLoss(), nearfar.losses.create("lifted_structure")),
        (
            losses.TupletMarginLoss(margin=math.degrees(0.1), scale=64),
            nearfar.losses.create("tuplet_margin"),
        ),
    ],
    ids=["ntxent", "lifted", "tuplet_margin"],
)
def test_positive_pairs_by_negative_pairs(theirs, ours):
    """64 rows of 16 classes: the peer holds every positive pair against all negative pairs of the batch."""
    x, labels = classes(16, 4)
    assert ours(x, labels).item() == pytest.approx(theirs(x, labels).item(), rel=1e-6)
    positive, negative = 64 * 3, 64 * 60
    assert largest(theirs, x, labels) >= positive * negative // 2  # lifted takes each pair once
    assert largest(ours, x, labels) <= 2 * 64 * 64


def test_smooth_ap_holds_no_cube():
    x, labels = classes(8, 8)
    assert largest(losses.SmoothAPLoss(), x, labels) == 64**3
    # On tiles: thresholds of positives and differences of two positives, but no positive x negative.
    ours = nearfar.losses.create("smooth_ap", backend="tiled")
    assert largest(ours, x, labels) <= 64 * 7 * 7 + 64 * 64


# Triplets


def test_swap_against_a_reference_set():
    """The peer looks its swapped distances up among anchors x references: another pair, or none."""
    x, labels = classes(4, 3)
    reference, reference_labels = classes(4, 5, seed=1)
    swapped = losses.TripletMarginLoss(swap=True)
    with pytest.raises(IndexError, match="out of bounds"):
        swapped(x, labels, ref_emb=reference, ref_labels=reference_labels)
    # With as many references as anchors it goes through, with distances of other pairs than p and n.
    other, other_labels = reference[:12], reference_labels[:12]
    mat = distances.LpDistance()(x, other)
    between = distances.LpDistance()(other)
    anchor, p, n = (
        torch.tensor(c)
        for c in zip(
            *(
                (a, p, n)
                for a in range(12)
                for p in range(12)
                for n in range(12)
                if labels[a] == other_labels[p] and labels[a] != other_labels[n]
            ),
            strict=True,
        )
    )
    violation = mat[anchor, p] - torch.minimum(mat[anchor, n], between[p, n]) + 0.05
    violation = violation.clamp_min(0)
    expected = violation.sum() / (violation > 0).sum()
    assert abs(swapped(x, labels, ref_emb=other, ref_labels=other_labels).item() - expected.item()) > 0.005
    # nearfar has no swap; its triplets of a reference set are those of the definition.
    plain = (mat[anchor, p] - mat[anchor, n] + 0.05).clamp_min(0)
    ours = nearfar.losses.create("triplet", margin=0.05, similarity="euclidean")
    torch.testing.assert_close(ours(x, labels, other, other_labels), plain.sum() / (plain > 0).sum())


# Distances and their margins


def test_a_distance_normalises_unasked():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert distances.LpDistance()(x)[0, 1].item() == pytest.approx(1)
    assert distances.DotProductSimilarity()(x)[1, 1].item() == pytest.approx(1)
    for similarity, expected in [("euclidean", -5.0), ("squared_euclidean", -25.0), ("dot", 0.0)]:
        pairs = nearfar.Pairs.within(x, torch.tensor([0, 0]), similarity=similarity)
        assert pairs.positives.similarity.tolist() == [expected] * 2


def test_contrastive_margins_belong_to_the_distance():
    """Negatives at a similarity of 0.96: with the peer's margins for distances they cost nothing."""
    x = torch.tensor([[1.0, 0.0], [0.96, 0.28]])
    labels = torch.tensor([0, 1])
    assert losses.ContrastiveLoss(distance=COSINE)(x, labels).item() == 0
    with pytest.warns(UserWarning, match="no positive pair"):
        assert nearfar.losses.create("contrastive", reduction="mean")(x, labels).item() == pytest.approx(0.46)


# Nothing to learn from


def test_a_batch_without_positives_is_told(recwarn):
    x, _ = classes(3, 2)
    apart = torch.arange(6)
    assert losses.TripletMarginLoss()(x, apart).item() == 0
    assert not recwarn.list
    with pytest.warns(UserWarning, match="batch.images_per_class to 2 or more"):
        assert nearfar.losses.create("triplet")(x, apart).item() == 0


def test_labels_as_a_list():
    x, _ = classes(3, 2)
    with pytest.raises(AttributeError, match="'list' object has no attribute"):
        losses.TripletMarginLoss()(x, [0, 0, 1, 1, 2, 2])
    with pytest.raises(NearfarError, match="labels must be a torch tensor; got list"):
        nearfar.losses.create("triplet")(x, [0, 0, 1, 1, 2, 2])


def test_half_precision_distances():
    x, labels = classes(3, 2)
    half = x.detach().bfloat16().requires_grad_()
    with pytest.raises((NotImplementedError, RuntimeError), match="not implemented for 'BFloat16'"):
        losses.ContrastiveLoss()(half, labels)
    ours = nearfar.losses.create("contrastive", similarity="euclidean")
    torch.testing.assert_close(ours(half, labels), ours(half.float(), labels))


# The table


def test_the_table_names_these_tests():
    """Every test that ``docs/beside-pml.md`` names is there, and every one of this file is named."""
    folder = Path(__file__).parent
    files = {
        "D": folder / "test_pml_differences.py",
        "T": folder / "test_pml_training.py",
        "R": folder / "losses" / "test_ranking_peers.py",
        "P": folder / "losses" / "test_peers.py",
    }
    table = (folder.parent / "docs" / "beside-pml.md").read_text(encoding="utf-8")
    named = set(re.findall(r"([DTRP]) `(test_\w+)`", table))
    there = {
        (letter, name)
        for letter, file in files.items()
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
    }
    assert named <= there
    assert there - named == {("D", "test_the_table_names_these_tests")}
