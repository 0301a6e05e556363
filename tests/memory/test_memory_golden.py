"""The memory against what the paper's public code and pytorch-metric-learning did, step by step."""

import json

import numpy as np
import pytest
import torch

import nearfar
from problems import golden_folder

CRITERIA = {
    "contrastive": {
        "name": "contrastive",
        "positive_margin": 1.0,
        "negative_margin": 0.5,
        "whole": True,
        "reduction": "mean",
    },
    "ms": {"name": "multi_similarity", "beta": 40.0, "mining": "multi_similarity"},
    "contrastive_dot": {
        "name": "contrastive",
        "positive_margin": 1.0,
        "negative_margin": 0.5,
        "reduction": "sum",
    },
    "nca_dot": {"name": "nca", "temperature": 1 / 8, "reduction": "mean_valid"},
}
backends = pytest.mark.parametrize("backend", ["tiled", "dense"])


def cases(system):
    return sorted((golden_folder / "losses" / system).glob("*.npz"))


def load(path):
    z = np.load(path)
    config = json.loads(str(z["config"]))
    return z, config, torch.from_numpy(z["embeddings"]), torch.from_numpy(z["labels"]).long()


def step(loss, memory, x, labels, ids):
    x = x.clone().requires_grad_()
    value = loss(x, labels, ids=ids, memory=memory)
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


def check(value, gradient, z, t):
    torch.testing.assert_close(value, torch.tensor(z["loss"][t]), rtol=5e-6, atol=2e-6)
    expected = torch.from_numpy(z["grad"][t])
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * expected.abs().max().item() + 1e-7)


@pytest.mark.filterwarnings("ignore:this batch has no positive pair")
@backends
@pytest.mark.parametrize("path", cases("xbm"), ids=lambda path: path.stem)
def test_as_the_papers_code(path, backend):
    z, config, embeddings, labels = load(path)
    loss = nearfar.losses.create(**CRITERIA[config["criterion"]], similarity="dot", backend=backend)
    memory = nearfar.CrossBatchMemory(
        config["memory"],
        start_after=config["start_iteration"],
        combine="sum",
        weight=config["weight"],
        xbm_compat=True,
    )
    for t, (x, classes) in enumerate(zip(embeddings, labels, strict=True)):
        ids = torch.arange(t * len(x), (t + 1) * len(x))
        value, gradient = step(loss, memory, x, classes, ids)
        if memory.ids is not None:
            assert memory.ids.tolist() == z["mem_stamp"][t].tolist()
            assert memory.labels.tolist() == z["mem_labels"][t].tolist()
        assert memory.cursor == z["ptr"][t]
        assert len(memory) == z["valid_rows"][t]
        check(value, gradient, z, t)


@backends
@pytest.mark.parametrize("path", cases("xbm_ring"), ids=lambda path: path.stem)
def test_as_pytorch_metric_learning(path, backend):
    """Whose NCA never leaves out a row's own copy in the memory: its own positive, at distance 0."""
    z, config, embeddings, labels = load(path)
    loss = nearfar.losses.create(**CRITERIA[config["criterion"]], similarity="dot", backend=backend)
    memory = nearfar.CrossBatchMemory(config["memory"], combine="memory", enqueue="before")
    for t, (x, classes) in enumerate(zip(embeddings, labels, strict=True)):
        value, gradient = step(loss, memory, x, classes, None)
        assert memory.labels.tolist() == z["mem_labels"][t].tolist()
        assert memory.added % memory.size == z["queue_idx"][t]
        assert (memory.added >= memory.size) == z["filled"][t]
        if config["criterion"] == "nca_dot":
            stored = slice(0, len(memory))
            leaf = x.clone().requires_grad_()
            with_itself = loss(leaf, classes, memory.embeddings[stored], memory.labels[stored])
            assert with_itself < value
            value, (gradient,) = with_itself.detach(), torch.autograd.grad(with_itself, leaf)
        check(value, gradient, z, t)
