"""The laws of the P x K sampler."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.data import PKSampler, create_sampler
from nearfar.errors import CheckpointError, DataError


@st.composite
def samplers(draw: st.DrawFn) -> PKSampler:
    sizes = draw(st.lists(st.integers(1, 14), min_size=2, max_size=9))
    labels = np.repeat(np.arange(len(sizes)) * 3 - 4, sizes)
    return PKSampler(
        labels[draw(st.permutations(range(len(labels))))],
        draw(st.integers(2, len(sizes))),
        draw(st.integers(2, 6)),
        seed=draw(st.integers(0, 3)),
    )


@given(samplers(), st.integers(0, 3))
@settings(deadline=None)
def test_every_class_and_image_and_every_batch_is_p_by_k(sampler: PKSampler, epoch: int) -> None:
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    p, k = sampler.classes_per_batch, sampler.images_per_class
    for batch in batches:
        groups = np.array(batch).reshape(p, k)
        labels = sampler.labels[groups]
        assert (labels == labels[:, :1]).all()
        assert len(set(labels[:, 0])) == p
        for group, label in zip(groups, labels[:, 0], strict=True):
            most = np.unique(group, return_counts=True)[1].max()
            # An image comes twice only in a class smaller than a hand, and then as evenly as can be.
            assert most == -(-k // min(k, (sampler.labels == label).sum()))
    assert set(np.concatenate(batches)) == set(range(len(sampler.labels)))


@given(samplers(), st.integers(0, 3), st.data())
@settings(deadline=None)
def test_the_rest_of_an_epoch_follows_from_its_state(
    sampler: PKSampler, epoch: int, data: st.DataObject
) -> None:
    sampler.set_epoch(epoch)
    whole = list(sampler)
    taken = data.draw(st.integers(0, len(whole)))
    again = PKSampler(sampler.labels, sampler.classes_per_batch, sampler.images_per_class, seed=sampler.seed)
    again.set_epoch(epoch)
    running = iter(again)
    assert [next(running) for _ in range(taken)] == whole[:taken]
    state = again.state_dict()
    assert state["position"] == taken
    resumed = PKSampler(
        sampler.labels, sampler.classes_per_batch, sampler.images_per_class, seed=sampler.seed
    )
    resumed.load_state_dict(state)
    resumed.set_epoch(epoch)  # what a loop over epochs does first
    assert list(resumed) == whole[taken:]
    resumed.set_epoch(epoch + 1)
    sampler.set_epoch(epoch + 1)
    assert list(resumed) == list(sampler)


def test_an_epoch_is_as_short_as_it_can_be() -> None:
    even = PKSampler(np.repeat(np.arange(8), 8), 4, 4)
    assert len(even) == 4
    assert sorted(np.concatenate(list(even))) == list(range(64))
    uneven = PKSampler(np.repeat([0, 1, 2], [40, 4, 4]), 2, 4)
    assert len(uneven) == 10


def test_epochs_and_seeds_differ() -> None:
    sampler = PKSampler(np.repeat(np.arange(8), 8), 4, 4, seed=1)
    first = list(sampler)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(PKSampler(np.repeat(np.arange(8), 8), 4, 4, seed=2)) != first


def test_classes_meet_in_many_combinations() -> None:
    sampler = PKSampler(np.repeat(np.arange(10), 4), 2, 4)
    met = set()
    for epoch in range(60):
        sampler.set_epoch(epoch)
        met |= {tuple(sorted(set(sampler.labels[batch]))) for batch in sampler}
    assert len(met) == 45


def test_no_class_waits_for_the_end_of_the_epoch() -> None:
    # Two large classes among small ones: each part of the epoch should show the large ones alike.
    sampler = PKSampler(np.repeat(np.arange(42), [40, 40] + [4] * 40), 3, 4)
    counts = np.zeros(3)
    for epoch in range(30):
        sampler.set_epoch(epoch)
        batches = sampler.labels[np.array(list(sampler))]
        counts += [(part < 2).mean() for part in np.array_split(batches, 3)]
    assert counts.max() / counts.min() < 1.3


def test_it_touches_no_other_random_state() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 (the state to protect)
    list(PKSampler([0, 0, 1, 1], 2, 2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_labels_of_any_kind() -> None:
    batches = list(PKSampler([5, 5, 9, 9], 2, 2))
    assert list(PKSampler(torch.tensor([5, 5, 9, 9]), 2, 2)) == batches
    assert all(type(row) is int for batch in batches for row in batch)


def test_small_classes_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "nearfar"):
        sampler = PKSampler([0, 1, 1, 1, 2, 2, 2, 2], 2, 4)
        list(sampler)
        list(sampler)
    assert len(caplog.records) == 1
    assert "2 of 3 classes have fewer than images_per_class = 4 images" in caplog.text


@pytest.mark.parametrize("k", [1, 0])
def test_k_without_a_positive_pair(k: int) -> None:
    sentence = f"images_per_class = {k} gives no positive pair; set batch.images_per_class to 2 or more"
    with pytest.raises(DataError, match=sentence):
        PKSampler([0, 0, 1, 1], 2, k)


@pytest.mark.parametrize("p", [1, 3])
def test_p_that_is_impossible(p: int) -> None:
    with pytest.raises(
        DataError, match=f"classes_per_batch = {p} but there are 2 training classes; set .* between 2 and 2"
    ):
        PKSampler([0, 0, 1, 1], p, 2)


def test_a_state_of_another_run_is_refused() -> None:
    state = PKSampler([0, 0, 1, 1], 2, 2, seed=1).state_dict()
    with pytest.raises(CheckpointError, match="made with seed = 1 but this run has 0"):
        PKSampler([0, 0, 1, 1], 2, 2).load_state_dict(state)
    with pytest.raises(CheckpointError, match="made with images = 4 but this run has 5"):
        PKSampler([0, 0, 1, 1, 1], 2, 2, seed=1).load_state_dict(state)


@pytest.mark.parametrize("name", ["pk", "balanced", "hard_classes"])
def test_numbers_of_any_kind_and_a_state_that_loads(name: str, tmp_path: Path) -> None:
    labels = np.repeat(np.arange(4), 3)
    plain = create_sampler(name, labels, 2, 3, seed=1)
    for number in (np.int64, np.uint8, torch.tensor):
        sampler = create_sampler(name, labels.astype(np.float32), number(2), number(3), seed=number(1))
        sampler.set_epoch(number(2))
        plain.set_epoch(2)
        torch.save(sampler.state_dict(), tmp_path / "s.pt")
        plain.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))
        assert list(sampler) == list(plain)


@pytest.mark.parametrize(
    ("labels", "p", "sentence"),
    [
        (
            torch.arange(8)[:, None] // 4,
            2,
            r"labels has shape \[8, 1\]; a sampler takes one label for each",
        ),
        (np.float32(3), 2, r"labels has shape \[\]"),
        ([0.0, 0.0, 1.5, 1.5], 2, "labels are float64 and not all whole"),
        ([0.0, 0.0, np.nan, 1], 2, "labels are float64 and not all whole"),
        ([0, 0, 1, 1], 2.0, r"classes_per_batch must be a whole number; got 2\.0"),
        ([0, 0, 1, 1], "2", "classes_per_batch must be a whole number; got '2'"),
    ],
)
def test_labels_and_numbers_that_are_none(labels: object, p: object, sentence: str) -> None:
    for name in ("pk", "hard_classes"):
        with pytest.raises(DataError, match=sentence):
            create_sampler(name, labels, p, 2)
