"""MultibatchData: what the original's draws have in common, and what the default makes of it."""

import json
from itertools import islice

import numpy as np
import pytest

from nearfar.caffe.layers import MultibatchData
from nearfar.errors import DataError
from problems import golden_folder

CASES = [
    path
    for path in sorted((golden_folder / "losses" / "samplers").glob("*.json"))
    if json.loads(path.read_text())["sampler"] == "MultibatchData (Caffe)"
]
SIZES = np.array([1, 2, 5, 12, 30])
LABELS = np.repeat(np.arange(5), SIZES)


def drawn(count, *, p=3, k=4, labels=LABELS, seed=0, **settings):
    data = MultibatchData("list.txt", p * k, p, k, **settings)
    return np.stack(list(islice(data.batches(labels, seed=seed), count)))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("whose", ["original", "parity"])
def test_what_the_original_keeps_to(path, whose):
    """Its own sequences and ours: identity by identity, with replacement at both levels."""
    case = json.loads(path.read_text())
    labels, p, k = np.array(case["labels"]), case["identity_num_per_batch"], case["img_num_per_identity"]
    batches = np.array(case["batches"])
    if whose == "parity":
        batches = drawn(200, p=p, k=k, labels=labels, rand_identity=case["rand_identity"], parity=True)
    groups = labels[batches].reshape(len(batches), p, k)
    assert (groups == groups[:, :, :1]).all()
    assert any(len(np.unique(images)) < k for images in batches.reshape(-1, k))


@pytest.mark.parametrize("rand_identity", [True, False])
def test_parity_draws_identities_by_their_images_in_both_modes(rand_identity):
    labels = LABELS[drawn(4000, rand_identity=rand_identity, parity=True)].reshape(4000, 3, 4)[:, :, 0]
    expected = SIZES - [0, 0, 0, 0, 1]  # the last line never draws
    assert np.bincount(labels.ravel()) / labels.size == pytest.approx(expected / expected.sum(), abs=0.01)
    repeated = np.mean([len(np.unique(row)) < 3 for row in labels])
    assert repeated == pytest.approx(0.82, abs=0.03)


@pytest.mark.parametrize("rand_identity", [True, False])
def test_default_draws_different_identities_and_images(rand_identity):
    batches = drawn(3000, rand_identity=rand_identity)
    labels = LABELS[batches].reshape(-1, 3, 4)
    assert (labels == labels[:, :, :1]).all()
    identities = labels[:, :, 0]
    assert all(len(np.unique(row)) == 3 for row in identities)
    for images in batches.reshape(-1, 4):
        size = SIZES[LABELS[images[0]]]
        assert len(np.unique(images)) == 4 if size >= 4 else True
    share = np.bincount(identities.ravel()) / 3000
    if rand_identity:
        assert share == pytest.approx([0.6] * 5, abs=0.04)
    else:
        assert (np.diff(share) > 0).all()
        first = np.bincount(identities[:, 0], minlength=5) / 3000
        assert first == pytest.approx(SIZES / SIZES.sum(), abs=0.03)


def test_the_seed_decides():
    assert (drawn(5, seed=1) == drawn(5, seed=1)).all()
    assert (drawn(5, seed=1) != drawn(5, seed=2)).any()


def test_labels_may_have_any_order_and_value():
    labels = [7, -3, 7, -3, 10**12, 10**12]
    batch = drawn(1, p=3, k=2, labels=labels)[0]
    assert sorted(batch.tolist()) == [0, 1, 2, 3, 4, 5]


def test_what_is_refused():
    with pytest.raises(DataError, match=r"batch_size is 120 but .* is 15 · 2 = 30; they must be equal"):
        MultibatchData("list.txt", 120, 15, 2)
    data = MultibatchData("list.txt", 12, 6, 2)
    with pytest.raises(DataError, match=r"list.txt has 5 identities but identity_num_per_batch is 6"):
        data.batches(LABELS)
    with pytest.raises(DataError, match=r"list.txt lists no images"):
        data.batches([])
