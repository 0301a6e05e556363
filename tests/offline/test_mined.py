"""What mining finds, against loops over everything."""

import math

import numpy as np
import pytest
import torch

from nearfar.errors import DataError, NearfarError
from nearfar.offline import mine, subset
from nearfar.offline.guard import suspects


def made(seed: int = 0, n: int = 40, classes: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    centres = torch.randn(classes, 6, generator=generator)
    return centres[labels] + 0.8 * torch.randn(n, 6, generator=generator), labels * 5


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
@pytest.mark.parametrize("guard", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_against_loops(seed, guard, similarity):
    x, labels = made(seed)
    mined = mine(x, labels, guard=guard, margin=0.15, near=5, similarity=similarity)
    z = torch.nn.functional.normalize(x.double(), dim=1)
    s = (z @ z.T if similarity == "cosine" else -torch.cdist(x.double(), x.double())).numpy()
    n, y = len(x), labels.numpy()
    same = [s[i, j] for i in range(n) for j in range(n) if i != j and y[i] == y[j]]
    threshold = np.quantile(same, guard)
    assert mined.suspects.threshold == pytest.approx(threshold, abs=1e-5)
    pairs = set()
    for i in range(n):
        own = [j for j in range(n) if j != i and y[j] == y[i]]
        others = sorted((j for j in range(n) if y[j] != y[i]), key=lambda j: -s[i, j])
        assert mined.negatives[i].tolist() == others[:5]
        pairs |= {tuple(sorted((i, j))) for j in others[:5] if s[i, j] >= threshold - 1e-7}
        if not own:
            assert mined.nearest_positive.row[i] == mined.hard.row[i] == mined.semi_hard.row[i] == -1
            assert math.isnan(mined.nearest_positive.similarity[i])
            continue
        far = min(own, key=lambda j: s[i, j])
        assert mined.nearest_positive.row[i] == max(own, key=lambda j: s[i, j])
        assert mined.farthest_positive.row[i] == far
        believed = [j for j in others if s[i, j] < threshold - 1e-7]
        hard = [j for j in believed[:1] if s[i, j] >= s[i, far]]
        semi_hard = [j for j in believed if s[i, far] - 0.15 <= s[i, j] < s[i, far]][:1]
        assert mined.hard.row[i] == (hard or [-1])[0]
        assert mined.semi_hard.row[i] == (semi_hard or [-1])[0]
    assert set(map(tuple, mined.suspects.pairs.tolist())) == pairs
    assert (np.diff(mined.suspects.similarity) <= 0).all()


def test_copies_under_two_labels_are_suspect_and_no_hard_negative():
    x, labels = made(3, n=60)
    copies = torch.tensor([4, 11, 19])
    x = torch.cat([x, x[copies] + 1e-4])
    labels = torch.cat([labels, (labels[copies] + 5) % 40])
    mined = mine(x, labels)
    first = mined.suspects.pairs[:3].tolist()
    assert sorted(first) == [[4, 60], [11, 61], [19, 62]]
    assert mined.suspects.mutual[:3].all()
    for one, other in first:
        assert mined.hard.row[one] != other != mined.semi_hard.row[one]
        assert mined.hard.row[other] != one != mined.semi_hard.row[other]


def test_confusions():
    """Classes 0 and 1 lie on each other; 2 is far from both."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.tensor([[1.0, 0, 0, 0], [1.0, 0.1, 0, 0], [0, 0, 1.0, 0]])
    labels = torch.arange(3).repeat_interleave(6)
    x = centre[labels] + 0.2 * torch.randn(18, 4, generator=generator)
    mined = mine(x, labels, guard=1.0)
    (first, *_) = mined.confusions()
    assert first.labels == (0, 1)
    assert first.of == 12
    hard = [i for i in range(12) if mined.hard.row[i] >= 0 and labels[mined.hard.row[i]] + labels[i] == 1]
    assert first.count == len(hard) > 6
    assert set(labels[list(first.rows)].tolist()) == {0, 1}
    assert first.similarity == pytest.approx(max(mined.hard.similarity[hard]))


def test_confusions_count_first_and_leave_out_rows_that_are_alone():
    """Classes 0 and 1 confuse four rows, 2 and 3 one that is nearer; a row of class 5 is alone beside class 1."""

    def confusions(degrees: list[float], labels: list[int]) -> list[tuple[tuple[int, int], int, int]]:
        angle = torch.tensor([*degrees, 300, 300.01], dtype=torch.float64).deg2rad()  # no negative is suspect
        x = torch.stack([angle.cos(), angle.sin()], 1)
        found = mine(x, torch.tensor([*labels, 9, 9]), guard=1.0).confusions()
        return [(each.labels, each.count, each.of) for each in found]

    pairs = [0.0, 40, 20, 60, 120, 122, 123, 123.5]
    assert confusions(pairs, [0, 0, 1, 1, 2, 2, 3, 3]) == [((0, 1), 4, 4), ((2, 3), 1, 4)]
    assert ((1, 5), 1, 2) in confusions([0.0, 40, 20, 60, 20.5], [0, 0, 1, 1, 5])


def test_suspects_by_hand():
    """1 and 2 are each other's nearest; 1 is the nearest of 0 and exactly as near as the threshold asks."""
    nearest = np.array([[1, 2], [2, 0], [1, -1]])
    similarity = np.array([[0.5, 0.1], [0.9, 0.5], [0.9, np.nan]], np.float32)
    found = suspects(nearest, similarity, 0.5)
    assert found.pairs.tolist() == [[1, 2], [0, 1]]
    assert found.mutual.tolist() == [True, False]
    assert found.similarity.tolist() == pytest.approx([0.9, 0.5])


def test_ids_gradients_and_precision():
    x, labels = made()
    ids = torch.arange(40) * 3 + 7
    mined = mine(x.requires_grad_(), labels, ids=ids)
    assert mined.ids.tolist() == ids.tolist()
    assert mine(x.double(), labels).triplets == mined.triplets
    assert mined.triplets.total == int(mined.kinds.sum())


@pytest.mark.parametrize(
    "x", [torch.zeros(6, 3), torch.ones(6, 3), torch.eye(6)[:, :3]], ids=["zero", "equal", "few"]
)
def test_degenerate_sets(x):
    for labels in ([0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 1]):
        mined = mine(x, torch.tensor(labels))
        sizes = np.bincount(labels)
        assert mined.triplets.total == sum(size * (size - 1) * (6 - size) for size in sizes)
        assert mined.negatives.shape[0] == 6


def test_two_rows():
    mined = mine(torch.eye(2), torch.tensor([0, 1]))
    assert mined.suspects.threshold == math.inf
    assert len(mined.suspects) == 0
    assert mined.confusions() == []


def test_what_does_not_fit():
    x, labels = made()
    with pytest.raises(NearfarError, match="there is one class to mine"):
        mine(x, torch.zeros(40, dtype=torch.int64))
    with pytest.raises(NearfarError, match=r"guard is a share .* got 95"):
        mine(x, labels, guard=95)
    with pytest.raises(NearfarError, match="ids has 3 rows"):
        mine(x, labels, ids=torch.arange(3))
    with pytest.raises(NearfarError, match="positive margin"):
        mine(x, labels, margin=-1.0)
    with pytest.raises(NearfarError, match=r"near is how many .* got 0"):
        mine(x, labels, near=0)


@pytest.mark.parametrize("most", [4, 10, 25, 60, 99, 100, 1000])
def test_subset(most):
    labels = np.repeat(np.arange(20), [1] * 5 + [3] * 5 + [8] * 10)
    rows = subset(labels, most, seed=2)
    assert len(rows) <= most
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() == subset(labels, most, seed=2).tolist()
    sizes = np.bincount(labels[rows], minlength=20)
    whole = np.bincount(labels)
    assert all(size in (0, w) or size >= 2 for size, w in zip(sizes, whole, strict=True))
    if most >= 35:  # two of each class that has two
        assert (sizes >= np.minimum(whole, 2)).all()
    if most >= 100:
        assert len(rows) == 100


def test_too_small_a_subset():
    with pytest.raises(DataError, match="3 images are too few"):
        subset(np.arange(9) // 3, 3)
