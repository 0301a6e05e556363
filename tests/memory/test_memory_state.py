"""What a memory saves, and what it refuses."""

import io
import re

import pytest
import torch

import nearfar
from memory_rows import equal, gradient, rows
from nearfar.errors import NearfarError
from nearfar.similarity import Relevance


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_resumed_in_the_middle_it_goes_on_bit_for_bit(steps):
    """Saved to a file with the ring empty, part full, full and wrapped round; weights_only loads it."""

    def train(memory, start, stop):
        loss = nearfar.losses.create("multi_similarity", mining="multi_similarity", backend="tiled")
        found = []
        for step in range(start, stop):
            x, labels = rows(9, step)
            found += gradient(loss, x, labels, ids=torch.arange(9) + step, memory=memory)
        return found

    make = {"size": 20, "start_after": 1}
    whole = nearfar.CrossBatchMemory(**make)
    train(whole, 0, steps)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    resumed = nearfar.CrossBatchMemory(**make)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    equal(train(resumed, steps, steps + 4), train(whole, steps, steps + 4))
    assert str(resumed.state_dict()) == str(whole.state_dict())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        ({"size": 0}, "size of a memory must be a whole number, 1 or more; got 0."),
        ({"size": 9.5}, "size of a memory must be a whole number, 1 or more; got 9.5."),
        (
            {"size": 9, "start_after": -1},
            "start_after of a memory must be a whole number, 0 or more; got -1.",
        ),
        (
            {"size": 9, "combine": "sums"},
            "combine 'sums' is not one of together, sum, memory. Did you mean 'sum'?",
        ),
        (
            {"size": 9, "dtype": torch.int8},
            "dtype of a memory must be a floating-point type; got torch.int8.",
        ),
        (
            {"size": 9, "weight": 2.0},
            'weight must not be negative, and weighs the memory with combine="sum" alone',
        ),
        (
            {"size": 9, "xbm_compat": True},
            "a batch stored before its loss would be among the candidates twice",
        ),
    ],
)
def test_settings_are_checked(make, sentence):
    with pytest.raises(NearfarError, match=re.escape(sentence)):
        nearfar.CrossBatchMemory(**make)


def test_calls_are_checked():
    x, labels = rows(6, 0)
    loss, memory = nearfar.losses.create("supcon"), nearfar.CrossBatchMemory(9)
    with pytest.raises(NearfarError, match="a memory keeps a label for each embedding, and Relevance only"):
        loss(x, Relevance(torch.tensor([[0, 1]])), memory=memory)
    memory.add(x, labels)
    for call, sentence in [
        ({"labels": labels, "embeddings": x[:, :3]}, "holds embeddings of 8 dimensions but the batch has 3"),
        ({"labels": torch.ones(6, 2).long()}, "holds labels of shape [9] but the batch has [6, 2]"),
        (
            {"labels": labels, "ids": labels},
            "this memory was filled without ids; give ids=… with every batch",
        ),
        ({"labels": labels, "candidates": x, "candidate_labels": labels}, "candidates stand in for it"),
        ({"labels": labels, "memory": 5}, "memory must be a nearfar.CrossBatchMemory; got int."),
    ]:
        with pytest.raises(NearfarError, match=re.escape(sentence)):
            loss(**{"embeddings": x, "memory": memory, **call})
    classifier = nearfar.losses.create("normalized_softmax", classes=4, dim=8)
    with pytest.raises(NearfarError, match="compares with its own proxies, not with embeddings"):
        classifier(x, labels, memory=memory)
    small = nearfar.CrossBatchMemory(4)
    small.add(x, labels)
    with pytest.raises(NearfarError, match="this memory has size 9 but the saved one has 4"):
        memory.load_state_dict(small.state_dict())
    full = nearfar.CrossBatchMemory(4, combine="sum", xbm_compat=True)
    with pytest.raises(NearfarError, match="xbm_compat cannot store a batch of 6 rows in a memory of 4"):
        loss(x, labels, memory=full)
