"""Where the memory of pytorch-metric-learning goes wrong, and ours does not."""

import pytest
import torch

import nearfar
from memory_rows import rows


def test_pytorch_metric_learning_loses_its_place():
    """Its buffers are saved; the cursor and whether the ring is full are not: resumed, the memory is empty."""
    from pytorch_metric_learning.losses import ContrastiveLoss, CrossBatchMemory

    whole = CrossBatchMemory(ContrastiveLoss(), 8, memory_size=20)
    for step in range(3):
        whole(*rows(9, step))
    resumed = CrossBatchMemory(ContrastiveLoss(), 8, memory_size=20)
    resumed.load_state_dict(whole.state_dict())
    assert (whole.queue_idx, whole.has_been_filled) == (7, True)
    assert (resumed.queue_idx, resumed.has_been_filled) == (0, False)
    x, labels = rows(9, 3)
    assert whole(x, labels) != resumed(x, labels)


def test_pytorch_metric_learning_meets_rows_of_one_image_and_stores_when_it_evaluates():
    from pytorch_metric_learning.losses import ContrastiveLoss, CrossBatchMemory

    memory = CrossBatchMemory(ContrastiveLoss(pos_margin=0, neg_margin=0), 8, memory_size=20).eval()
    x, _ = rows(4, 0)
    with torch.no_grad():
        memory(x, torch.arange(4))
        # The same images once more: each meets its own copy as a positive.
        loss = memory(x + 0.1, torch.arange(4))
    assert memory.queue_idx == 8
    assert loss > 0
    ours, ring = nearfar.losses.create("contrastive", positive_margin=1.0), nearfar.CrossBatchMemory(20)
    ring.add(x, torch.arange(4), torch.arange(4))
    with pytest.warns(UserWarning, match="no positive pair"):
        ours(x + 0.1, torch.arange(4), ids=torch.arange(4), memory=ring)


def test_pytorch_metric_learning_cannot_store_a_large_batch():
    from pytorch_metric_learning.losses import ContrastiveLoss, CrossBatchMemory

    with pytest.raises(AssertionError):
        CrossBatchMemory(ContrastiveLoss(), 8, memory_size=4)(*rows(9, 0))
    memory = nearfar.CrossBatchMemory(4)
    nearfar.losses.create("contrastive")(*rows(9, 0), memory=memory)
    assert torch.equal(memory.embeddings[[1, 2, 3, 0]], rows(9, 0)[0][5:])


def test_pytorch_metric_learning_reads_tuples_of_the_batch_as_slots():
    """Pairs mined in the batch are taken for slots of the memory: the first step aside, other images' slots."""
    from pytorch_metric_learning.losses import ContrastiveLoss, CrossBatchMemory
    from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices

    seen = []

    class Spy(ContrastiveLoss):
        def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
            seen.append((labels[indices_tuple[0]] != ref_labels[indices_tuple[1]]).float().mean())
            return super().compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)

    Spy.__name__ = "ContrastiveLoss"  # it knows the losses it supports by their names
    memory = CrossBatchMemory(Spy(), 8, memory_size=64)
    for step in range(2):
        x, labels = rows(12, step)
        memory(x, labels, get_all_pairs_indices(labels))
    assert seen[0] == 0
    assert seen[1] > 0.2  # "positives" of another class
