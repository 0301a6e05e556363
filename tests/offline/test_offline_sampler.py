"""Batches around mined negatives: triplets lie in one batch, suspects never do."""

import io

import numpy as np
import pytest
import torch

from nearfar.data import create_sampler
from nearfar.errors import CheckpointError, DataError
from nearfar.offline import Mined, OfflineSampler, mine

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(14) * 2, [2, 3, 4, 5, 6, 7, 8] * 2))


def mined(seed: int = 0, copies: int = 0, rows: np.ndarray | None = None) -> Mined:
    """Clusters that overlap; ``copies`` images lie on an image of the next class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.from_numpy(LABELS)
    x = torch.randn(28, 6, generator=generator)[labels] + 0.7 * torch.randn(
        len(labels), 6, generator=generator
    )
    for c in range(copies):
        first, second = (np.flatnonzero(2 * k == LABELS) for k in (c, c + 1))
        x[second[-1]] = x[first[0]]
    rows = np.arange(len(LABELS)) if rows is None else rows
    return mine(x[rows], labels[rows], ids=torch.from_numpy(rows), guard=0.99)


@pytest.mark.parametrize("around", ["hard", "semi_hard"])
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_batches_hold_mined_triplets(around, share):
    found = mined()
    sampler = OfflineSampler(LABELS, 5, 3, around=around, share=share)
    sampler.refresh(found)
    negative = found.hard if around == "hard" else found.semi_hard
    triplets = {
        (int(a), int(found.farthest_positive.row[a]), int(negative.row[a]))
        for a in np.flatnonzero(negative.there)
    }
    assert len(triplets) > 10
    seen = set()
    for epoch in range(4):
        sampler.set_epoch(epoch)
        for batch in sampler:
            groups = np.array(batch).reshape(5, 3)
            assert (LABELS[groups] == LABELS[groups[:, :1]]).all()
            assert len(set(LABELS[groups[:, 0]])) == 5
            for group in groups:
                free = [
                    i
                    for i in np.flatnonzero(LABELS[group[0]] == LABELS).tolist()
                    if i in batch or not sampler.blocked.get(i, set()) & set(batch)
                ]
                assert len(set(group.tolist())) == min(3, len(free))
            inside = [t for t in triplets if set(t) <= set(batch)]
            assert inside
            seen |= set(inside)
    assert len(seen) > len(triplets) / 3


def test_every_class_keeps_its_turn():
    sampler = OfflineSampler(LABELS, 5, 3, around="hard", share=0.5)
    sampler.refresh(mined())
    met = set()
    for epoch in range(8):
        sampler.set_epoch(epoch)
        met |= set(LABELS[np.concatenate(list(sampler))])
    assert len(met) == 14


@pytest.mark.parametrize("p", [3, 8])
def test_suspects_never_meet(p):
    found = mined(copies=9)
    pairs = found.suspects.pairs
    assert len(pairs) >= 9
    sampler = OfflineSampler(LABELS, p, 4, around="hard")
    plain = OfflineSampler(LABELS, p, 4, around="hard")
    sampler.refresh(found)
    met = 0
    for epoch in range(12):
        sampler.set_epoch(epoch)
        plain.set_epoch(epoch)
        for batch, other in zip(sampler, plain, strict=True):
            assert not any(set(pair) <= set(batch) for pair in pairs.tolist())
            assert len(set(LABELS[batch])) == p
            met += sum(set(pair) <= set(other) for pair in pairs.tolist())
    assert met > 0


def test_no_class_is_lost_to_the_guard():
    """Two classes that are copies of each other: with both in each batch they must meet."""
    labels = np.array([0, 0, 1, 1])
    found = mine(torch.eye(2)[[0, 0, 0, 0]], torch.from_numpy(labels))
    assert len(found.suspects) == 4
    sampler = OfflineSampler(labels, 2, 2)
    sampler.refresh(found)
    assert [len(set(labels[batch])) for batch in sampler] == [2]


def test_a_subset_is_mined_and_ids_are_images():
    rows = np.flatnonzero(LABELS < 12)
    found = mined(rows=rows)
    sampler = OfflineSampler(LABELS, 4, 2, around="hard", share=1.0)
    sampler.refresh(found)
    assert set(sampler.triplets.ravel()) <= set(rows)
    assert (LABELS[sampler.triplets[:, 0]] == LABELS[sampler.triplets[:, 1]]).all()
    assert (LABELS[sampler.triplets[:, 0]] != LABELS[sampler.triplets[:, 2]]).all()


def test_before_the_first_refresh_and_without_any_negative():
    sampler = create_sampler("offline", LABELS, 5, 3, 4)
    before = list(sampler)
    assert all(len(set(LABELS[batch])) == 5 for batch in before)
    apart = mine(torch.eye(14)[torch.from_numpy(LABELS) // 2], torch.from_numpy(LABELS))
    assert not apart.hard.there.any()
    sampler.refresh(apart)
    sampler.set_epoch(1)
    assert all(len(set(LABELS[batch])) == 5 for batch in sampler)


def test_resume_between_two_refreshes():
    def sampler() -> OfflineSampler:
        return OfflineSampler(LABELS, 4, 2, seed=3)

    whole = sampler()
    whole.refresh(mined(1, copies=2))
    batches = []
    for step, batch in enumerate(whole):
        if step == 4:
            whole.refresh(mined(2))
        whole.update(batch, torch.zeros(8, 3))
        batches.append(batch)
    part = sampler()
    part.refresh(mined(1, copies=2))
    running = iter(part)
    first = [next(running) for _ in range(3)]
    for batch in first[:2]:
        part.update(batch, torch.zeros(8, 3))
    buffer = io.BytesIO()
    torch.save(part.state_dict() | {"position": 2}, buffer)  # the third was handed out, not trained on
    buffer.seek(0)
    again = sampler()
    again.load_state_dict(torch.load(buffer, weights_only=True))
    rest = []
    for step, batch in enumerate(again, start=2):
        if step == 4:
            again.refresh(mined(2))
        again.update(batch, torch.zeros(8, 3))
        rest.append(batch)
    assert first[:2] + rest == batches


def test_what_does_not_fit():
    sampler = OfflineSampler(LABELS, 4, 2)
    x = torch.eye(4)
    with pytest.raises(DataError, match="ids run from 0 to 99 but the sampler has 70 images"):
        sampler.refresh(mine(x, torch.tensor([0, 0, 1, 1]), ids=torch.tensor([0, 1, 2, 99])))
    with pytest.raises(DataError, match="other labels than the sampler's"):
        sampler.refresh(mine(x, torch.tensor([0, 0, 1, 1]) + 70))
    with pytest.raises(DataError, match="share is a part"):
        OfflineSampler(LABELS, 4, 2, share=0)
    with pytest.raises(CheckpointError, match="made with around = semi_hard but this run has hard"):
        OfflineSampler(LABELS, 4, 2, around="hard").load_state_dict(sampler.state_dict())
