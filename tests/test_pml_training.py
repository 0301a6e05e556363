"""What pytorch-metric-learning 2.9 does from step to step: memories, class weights, samplers; and nearfar.

``docs/beside-pml.md`` is the table of these tests.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses, miners, samplers
from torch import Tensor

import nearfar


def value_and_gradient(loss: Callable[..., Tensor], x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(x, *rest)
    return value.detach().double(), torch.autograd.grad(value, x)[0]


# Cross-batch memory


def steps(count: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of 16 rows of 6 classes."""
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(16, 8, generator=generator), torch.randint(6, (16,), generator=generator))
        for _ in range(count)
    ]


def test_mining_with_a_memory():
    """The peer appends indices of the batch to those of its memory, where they are those of older rows."""
    miner = miners.BatchHardMiner()
    theirs = losses.CrossBatchMemory(losses.ContrastiveLoss(), 8, memory_size=64)
    refused = losses.CrossBatchMemory(losses.MultiSimilarityLoss(), 8, memory_size=64)
    memory = nearfar.CrossBatchMemory(64)
    ours = nearfar.losses.create("triplet", mining="hard")
    (old, old_labels), (x, labels) = steps(2)
    for loss in (theirs, refused):
        loss(old, old_labels, indices_tuple=miner(old, old_labels))
    ours(old.requires_grad_(), old_labels, memory=memory)

    anchor, positive, _ = tuples = miner(x, labels)
    theirs(x, labels, indices_tuple=tuples)
    assert (theirs.label_memory[positive] != labels[anchor]).float().mean() > 0.5
    with pytest.raises(AssertionError, match="positive or negative"):
        refused(x, labels, indices_tuple=tuples)

    every, every_labels = torch.cat([x, old.detach()]), torch.cat([labels, old_labels])
    plain = nearfar.losses.create("triplet", mining="hard")
    ids = torch.arange(32)
    expected = plain(x, labels, every, every_labels, ids=ids[:16], candidate_ids=ids)
    assert ours(x.clone().requires_grad_(), labels, memory=memory).item() == pytest.approx(expected.item())


def test_the_state_of_a_memory():
    first, second, third = steps(3)
    theirs, ours = losses.ContrastiveLoss(), nearfar.losses.create("contrastive")

    def peer(memory: losses.CrossBatchMemory, *batches: tuple[Tensor, Tensor]) -> float:
        return [memory(x, labels).item() for x, labels in batches][-1]

    def value(memory: nearfar.CrossBatchMemory, *batches: tuple[Tensor, Tensor]) -> float:
        return [ours(x.clone().requires_grad_(), labels, memory=memory).item() for x, labels in batches][-1]

    whole, stopped, resumed = (losses.CrossBatchMemory(theirs, 8, memory_size=64) for _ in range(3))
    expected = peer(whole, first, second, third)
    peer(stopped, first, second)
    resumed.load_state_dict(stopped.state_dict())
    assert resumed.queue_idx == 0
    assert peer(resumed, third) != pytest.approx(expected, rel=1e-3)

    whole, stopped, resumed = (nearfar.CrossBatchMemory(64) for _ in range(3))
    expected = value(whole, first, second, third)
    value(stopped, first, second)
    resumed.load_state_dict(stopped.state_dict())
    assert value(resumed, third) == expected


# Class weights


@pytest.mark.parametrize("angle", [0.0, 1e-4, 0.5, 2.9])
def test_arcface_of_an_embedding_on_its_class(angle):
    """The arc cosine has no derivative at 1: the peer's gradient there is what torch makes of it, 0 or NaN."""
    theirs = losses.ArcFaceLoss(num_classes=3, embedding_size=4, margin=math.degrees(0.5), scale=4)
    ours = nearfar.losses.create("arcface", classes=3, dim=4, margin=0.5, temperature=1 / 4).double()
    assert ours.proxies is not None
    weights = torch.eye(4, dtype=torch.float64)[:3]
    theirs.W.data, ours.proxies.data = weights.t().clone(), weights.clone()
    turned = torch.eye(4, dtype=torch.float64)[3]
    x = (math.cos(angle) * weights + math.sin(angle) * turned).requires_grad_()
    value, grad = value_and_gradient(theirs, x, torch.arange(3))
    found, found_grad = value_and_gradient(ours, x, torch.arange(3))
    torch.testing.assert_close(found, value)
    assert found_grad.isfinite().all()
    if angle:
        torch.testing.assert_close(found_grad, grad, rtol=1e-6, atol=1e-9)


def test_class_weights_keep_their_precision():
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    theirs = losses.ArcFaceLoss(num_classes=4, embedding_size=8)
    ours = nearfar.losses.create("arcface", classes=4, dim=8)
    theirs(x, torch.arange(4))
    ours(x, torch.arange(4))
    assert theirs.W.dtype == torch.bfloat16
    assert ours.proxies is not None
    assert ours.proxies.dtype == torch.float32


# Samplers

TWENTY_CLASSES_OF_TEN = np.arange(200) // 10


def test_an_epoch_of_a_sampler_is_the_set():
    theirs = samplers.MPerClassSampler(TWENTY_CLASSES_OF_TEN, 4, batch_size=20)
    assert len(theirs) == 100_000
    ours = nearfar.data.create_sampler("pk", TWENTY_CLASSES_OF_TEN, 5, 4)
    epoch = list(ours)
    assert {row for rows in epoch for row in rows} == set(range(200))
    assert len(ours) == len(epoch) <= 15


def test_a_sampler_leaves_the_global_generator_alone():
    def state() -> str:
        return str(np.random.get_state())  # noqa: NPY002, it is the one that is meant

    before = state()
    list(nearfar.data.create_sampler("pk", TWENTY_CLASSES_OF_TEN, 5, 4))
    assert state() == before
    list(samplers.MPerClassSampler(TWENTY_CLASSES_OF_TEN, 4, length_before_new_iter=80))
    assert state() != before


def test_a_sampler_has_a_state():
    assert not hasattr(samplers.MPerClassSampler(TWENTY_CLASSES_OF_TEN, 4), "state_dict")
    whole, first, second = (nearfar.data.create_sampler("pk", TWENTY_CLASSES_OF_TEN, 5, 4) for _ in range(3))
    expected, started = list(whole), iter(first)
    assert [next(started), next(started)] == expected[:2]
    second.load_state_dict(first.state_dict())
    assert list(second) == expected[2:]


def test_a_class_of_one_image():
    """Both samplers repeat it to fill its place; nearfar knows by its id that this is no pair."""
    labels = torch.tensor([0, 0, 0, 0, 1])
    rows = torch.tensor(list(samplers.MPerClassSampler(labels, 2, length_before_new_iter=8)))
    alone = labels[rows] == 1
    assert (rows[alone] == 4).all()
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    assert len(nearfar.Pairs.within(x[rows[alone]], labels[rows[alone]]).positives.anchor) > 0
    found = nearfar.Pairs.within(x[rows[alone]], labels[rows[alone]], ids=rows[alone])
    assert len(found.positives.anchor) == 0
