"""Greedy hard-class batches against their definition, and their exact resume."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.data import create_sampler
from nearfar.data.samplers.hard_classes import HardClassSampler, greedy
from nearfar.errors import CheckpointError, DataError

LABELS = np.repeat(np.arange(10) * 3, [2, 3, 4, 5, 6, 3, 3, 4, 5, 6])


def embed(ids, step: int = 0) -> torch.Tensor:
    """Stands for a network: what an image is embedded as drifts with the steps."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(len(LABELS), 5, generator=generator) + 0.1 * step
    return table[torch.as_tensor(ids)]


@given(st.integers(0, 50), st.integers(2, 8), st.integers(0, 6))
@settings(deadline=None, max_examples=60)
def test_greedy_against_loops(seed, count, unmet):
    random = np.random.default_rng(seed)
    means = random.standard_normal((8, 3)).astype(np.float32)
    met = np.ones(8, dtype=bool)
    met[random.permutation(8)[:unmet]] = False
    taken = [0]
    taken += [c for c in range(1, 8) if not met[c]][: count - 1]
    while len(taken) < count:
        left = [c for c in range(8) if c not in taken]
        known = [b for b in taken if met[b]]
        cost = [
            min(
                (
                    sum((float(x) - float(y)) ** 2 for x, y in zip(means[b], means[c], strict=True))
                    for b in known
                ),
                default=np.inf,
            )
            for c in left
        ]
        taken.append(left[int(np.argmin(cost))])
    assert greedy(means, met, count).tolist() == taken


def test_by_hand():
    """Class 1 lies nearest to 0, then 2 to 1 (the chain), and 3 is far from all."""
    means = np.array([[1, 0], [0.8, 0.3], [0.5, 0.7], [-1, 0]], np.float32)
    assert greedy(means, np.ones(4, bool), 3).tolist() == [0, 1, 2]
    assert greedy(means[[3, 0, 1, 2]], np.ones(4, bool), 4).tolist() == [0, 3, 2, 1]


def test_the_nearest_means_violate_the_triplet_constraint_most():
    """-‖μ_b - μ_c‖² is the mean over all triplets of both ways round of s_an - s_ap, the anchor among its
    positives included."""
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 4, 5))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    violation = 0.0
    for one, other in ((x[0], x[1]), (x[1], x[0])):
        violation += np.mean([a @ n - a @ p for a in one for p in one for n in other])
    mean = x.mean(axis=1)
    assert violation == pytest.approx(-((mean[0] - mean[1]) ** 2).sum())


def test_running_means():
    sampler = HardClassSampler(LABELS, 3, 2, momentum=0.75)
    expected, met = np.zeros((10, 5)), np.zeros(10, bool)
    for step, ids in enumerate(sampler):
        x = embed(ids, step)
        sampler.update(torch.tensor(ids), x)
        x = (x / x.norm(dim=1, keepdim=True)).double().numpy()
        for c in range(10):
            rows = [i for i, row in enumerate(ids) if LABELS[row] == 3 * c]
            if rows:
                mean = x[rows].mean(axis=0)
                expected[c] = 0.75 * expected[c] + 0.25 * mean if met[c] else mean
                met[c] = True
    np.testing.assert_allclose(sampler.means, expected, atol=1e-6)
    assert (sampler.met == met).all()


def test_the_first_batches_meet_all_classes():
    sampler, met = HardClassSampler(LABELS, 5, 2, candidates=10), set()
    for ids, _ in zip(sampler, range(3), strict=False):
        sampler.update(ids, embed(ids))
        met |= set(LABELS[ids])
    assert len(met) == 10


def test_alike_classes_meet():
    """Two families of classes, each around its own direction: a batch stays in the family it began in."""
    labels = np.repeat(np.arange(16), 4)
    generator = torch.Generator().manual_seed(1)
    centre = torch.randn(2, 8, generator=generator) * 4
    classes = centre[torch.arange(16) % 2] + torch.randn(16, 8, generator=generator)
    sampler = create_sampler("hard_classes", labels, 4, 2, candidates=16)
    alike = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        for ids in sampler:
            alike.append(len(set((labels[ids] % 2).tolist())) == 1)
            sampler.update(ids, classes[torch.from_numpy(labels[ids])])
    assert all(alike[len(alike) // 4 :])


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_resume_bit_for_bit_with_a_loader_that_reads_ahead(ahead):
    def run(steps: int, state=None, start: int = 0):
        """Train for some steps over epochs, drawing ``ahead`` batches early; return them and the state."""
        sampler = create_sampler("hard_classes", LABELS, 3, 2, 7)
        at = (0, 0)
        if state is not None:
            sampler.load_state_dict(state)
            at = (state["epoch"], state["position"])
        done = []
        while len(done) < steps:
            epoch, position = at
            sampler.load_state_dict(sampler.state_dict() | {"epoch": epoch, "position": position})
            batches, queue = iter(sampler), []
            while len(done) < steps:
                while len(queue) <= ahead and (batch := next(batches, None)) is not None:
                    queue.append(batch)
                if not queue:
                    break
                ids = queue.pop(0)
                # A loader hands out the next batch before this one is trained on.
                if (batch := next(batches, None)) is not None:
                    queue.append(batch)
                sampler.update(ids, embed(ids, start + len(done)))
                done.append(ids)
                position += 1
            at = (epoch + 1, 0) if position == len(sampler) else (epoch, position)
        return done, sampler.state_dict() | {"epoch": at[0], "position": at[1]}

    whole, last = run(23)
    for part in (1, 5, 7, 14):
        begun, state = run(part)
        buffer = io.BytesIO()
        torch.save(state, buffer)  # as a checkpoint keeps it: nothing in it is executed
        buffer.seek(0)
        rest, end = run(23 - part, torch.load(buffer, weights_only=True), part)
        assert begun + rest == whole
        assert torch.equal(end["learned"]["means"], last["learned"]["means"])


def test_batches_before_the_place_are_forgotten():
    sampler = HardClassSampler(LABELS, 3, 2, seed=2)
    handed = list(sampler)
    state = sampler.state_dict() | {"position": 2}
    assert sampler.candidates == len(sampler.members) == 10
    assert HardClassSampler(np.arange(60) // 2, 3, 2).candidates == 12
    again = HardClassSampler(LABELS, 3, 2, seed=2)
    again.load_state_dict(state)
    assert min(again.ahead) == 2
    assert list(again) == handed[2:]


def test_one_draw_is_of_its_place_and_means_alone():
    torch.manual_seed(3)
    one, other = (HardClassSampler(LABELS, 3, 2, seed=2) for _ in range(2))
    assert list(one) == list(other)
    before = np.random.get_state()[1].copy()  # noqa: NPY002 (the state to protect)
    one.update(next(iter(one)), embed(next(iter(one))))
    assert (before == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300])
def test_rows_that_are_not_finite_move_no_mean(wrong):
    """As if the other rows had been the step; a class of which no row is left is not met."""
    one, other = (HardClassSampler(LABELS, 3, 2, seed=2) for _ in range(2))
    for ids in one:
        x = embed(ids).double().numpy()
        x[[0, 4, 5], 1] = wrong
        one.update(ids, x)
        other.update([ids[k] for k in (1, 2, 3)], x[1:4])
    assert np.isfinite(one.means).all()
    assert np.array_equal(one.means, other.means)
    assert np.array_equal(one.met, other.met)
    one.update(ids, np.full((6, 5), wrong))
    assert np.array_equal(one.means, other.means)


def test_a_huge_row_has_its_direction():
    sampler = HardClassSampler(LABELS, 3, 2)
    ids = next(iter(sampler))
    sampler.update(ids, 1e30 * embed(ids))
    plain = HardClassSampler(LABELS, 3, 2)
    plain.update(ids, embed(ids))
    np.testing.assert_allclose(sampler.means, plain.means, rtol=1e-6)


def test_edges():
    two = HardClassSampler([0, 0, 1, 1], 2, 2)
    for epoch in range(3):
        two.set_epoch(epoch)
        for ids in two:
            two.update(ids, torch.zeros(4, 3))  # zero vectors have no direction
    assert np.isfinite(two.means).all()
    half = HardClassSampler(LABELS, 3, 2)
    ids = next(iter(half))
    half.update(ids, embed(ids).bfloat16().requires_grad_())
    assert half.means.dtype == np.float32
    with pytest.raises(DataError, match="a step of 6 images has embeddings of shape"):
        half.update(ids, torch.zeros(5, 5))
    with pytest.raises(DataError, match="4 dimensions but the class means have 5"):
        half.update(ids, torch.zeros(6, 4))
    with pytest.raises(DataError, match="candidates = 2 is less than classes_per_batch = 3"):
        HardClassSampler(LABELS, 3, 2, candidates=2)
    with pytest.raises(DataError, match="momentum must be"):
        HardClassSampler(LABELS, 3, 2, momentum=1.0)
    with pytest.raises(CheckpointError, match=r"made with momentum = 0\.5 but this run has 0"):
        HardClassSampler(LABELS, 3, 2, momentum=0).load_state_dict(half.state_dict())
