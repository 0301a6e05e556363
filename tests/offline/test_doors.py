"""What offline mining is given: rows of every length and type, labels that are missing, and what is refused."""

import numpy as np
import pytest
import torch

from nearfar import offline
from nearfar.errors import DataError, NearfarError

LABELS = torch.arange(24) // 4
# On a coarse grid, so that every type holds them exactly.
ROWS = torch.from_numpy(np.round(4 * np.random.default_rng(0).standard_normal((24, 6)))).float()


def same(one, other) -> bool:
    return all(
        np.array_equal(getattr(one, name).row, getattr(other, name).row)
        for name in ("hard", "semi_hard", "farthest_positive")
    ) and (one.triplets, one.suspects.pairs.tolist()) == (other.triplets, other.suspects.pairs.tolist())


@pytest.mark.parametrize("power", [-110, -70, 70, 110])
def test_the_cosine_knows_no_length(power) -> None:
    wanted = offline.mine(ROWS, LABELS)
    assert wanted.triplets.easy > 0
    assert same(offline.mine(ROWS * 2.0**power, LABELS), wanted)
    some = torch.where(torch.arange(24)[:, None] % 3 == 0, ROWS * 2.0**power, ROWS)
    assert same(offline.mine(some, LABELS), wanted)
    assert offline.count_triplets(ROWS * 2.0**power, LABELS) == wanted.triplets


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "squared_euclidean"])
def test_rows_that_float32_cannot_square_are_said(similarity) -> None:
    for call in (offline.mine, offline.count_triplets):
        with pytest.raises(
            NearfarError, match=rf"24 rows whose {similarity} similarities float32 does not hold"
        ):
            call(ROWS + 2.0**90, LABELS, similarity=similarity)


@pytest.mark.parametrize("call", [offline.mine, offline.count_triplets])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_are_counted(call, value) -> None:
    broken = ROWS.clone()
    broken[[4, 9], 0] = value
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        with pytest.raises(
            NearfarError, match="embeddings has 2 rows with NaN or infinite values of 24, the first is row 4"
        ):
            call(broken.to(dtype), LABELS)


def test_labels_in_a_column_and_rows_without_a_label() -> None:
    wanted = offline.mine(ROWS, LABELS)
    assert same(offline.mine(ROWS.requires_grad_(), LABELS[:, None].int()), wanted)
    ROWS.requires_grad_(False)
    missing = torch.where(torch.arange(24) % 5 == 0, -1, LABELS)
    with pytest.warns(UserWarning, match="5 of 24 labels are -1"):
        offline.mine(ROWS, missing)
    kept = missing != -1
    left = offline.mine(ROWS, missing, unlabelled=-1)
    assert same(left, offline.mine(ROWS[kept], LABELS[kept]))
    assert left.ids.tolist() == torch.nonzero(kept).squeeze(1).tolist()
    named = offline.mine(ROWS, missing, unlabelled=-1, ids=torch.arange(100, 124))
    assert named.ids.tolist() == (left.ids + 100).tolist()
    assert offline.count_triplets(ROWS, missing, unlabelled=-1) == left.triplets


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(24, dtype=torch.long)}, "there is one class to mine"),
        ({"embeddings": ROWS[:0], "labels": LABELS[:0]}, "there is one class to mine, or none"),
        ({"near": 0}, "near is how many .* got 0"),
        ({"near": 1.5}, r"got 1\.5"),
        ({"near": True}, "got True"),
        ({"near": 10**9}, "got 1000000000"),
        ({"labels": torch.stack([LABELS, LABELS], 1)}, "labels must be whole numbers"),
        ({"margin": float("nan")}, "positive margin"),
        ({"guard": float("nan")}, "guard is a share"),
    ],
)
def test_what_cannot_be_mined_is_said(change, message) -> None:
    with pytest.raises(NearfarError, match=message):
        offline.mine(**({"embeddings": ROWS, "labels": LABELS} | change))


def test_too_few_rows_have_no_triplets() -> None:
    each_its_own = offline.mine(ROWS, torch.arange(24), near=np.int64(2))
    assert (each_its_own.triplets.total, len(each_its_own.suspects)) == (0, 0)
    assert offline.count_triplets(ROWS[:2], LABELS[[0, 4]]).total == 0
    with pytest.raises(DataError, match=r"labels has shape \(24, 1\)"):
        offline.subset(LABELS.numpy()[:, None], 8)


def test_what_was_found_is_short_in_a_notebook() -> None:
    mined = offline.mine(ROWS, LABELS)
    for shown in map(repr, (mined, mined.hard, mined.suspects)):
        assert len(shown) < 300
        assert "array" not in shown
    assert repr(mined).startswith("Mined(24 rows of 6 classes, Triplets(easy=")
