"""The N-pair loss of mined pairs against the Caffe layer's outputs, on the pairs that the layer selected."""

import json

import numpy as np
import pytest
import torch

import nearfar
from nearfar.losses.npair_mined import npair_mined
from problems import golden_folder

CASES = sorted((golden_folder / "losses" / "npair").glob("*.npz"))


def selected(pairs: nearfar.Pairs, mask: torch.Tensor) -> nearfar.Pairs:
    """Keep the pairs of a bool mask [n, n]."""
    positive = torch.zeros_like(mask)
    positive[pairs.positives.anchor, pairs.positives.candidate] = True
    negative = mask & ~positive
    columns = torch.where(negative, torch.arange(len(mask)), -1)
    return pairs.narrow(positives=mask[pairs.positives.anchor, pairs.positives.candidate], columns=columns)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_value_and_gradient_of_the_layer(path):
    z = dict(np.load(path, allow_pickle=False))
    weight = json.loads(str(z["config"]))["loss_weight"]
    labels = torch.from_numpy(z["labels"]).long()
    for row in range(0, len(z["params"]), 5):
        x = torch.from_numpy(z["embeddings"]).requires_grad_()
        bits = np.unpackbits(z["selected_bits"][row])[: len(x) ** 2].reshape(len(x), len(x))
        pairs = selected(
            nearfar.Pairs.within(x, labels, similarity="dot"), torch.from_numpy(bits.astype(bool))
        )
        value = npair_mined(pairs, orphan_repulsion=True, gradient="caffe").mean()
        (grad,) = torch.autograd.grad(weight * value, x)
        assert value.item() == pytest.approx(float(z["loss"][row]), rel=2e-6, abs=2e-6)
        expected = z["grad"][row]
        assert np.abs(grad.numpy() - expected).max() <= 1e-5 * np.abs(expected).max() + 1e-7


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_no_mining(path):
    """Where the layer takes all pairs, the loss as a user creates it."""
    z = dict(np.load(path, allow_pickle=False))
    config = json.loads(str(z["config"]))
    method = [config["param_columns"].index(name) for name in ("ap_method", "an_method")]
    everything = config["methods"].index("RAND")
    rows = np.nonzero((z["params"][:, method] == everything).all(1))[0]
    loss = nearfar.losses.create("npair_mined", similarity="dot")
    value = loss(torch.from_numpy(z["embeddings"]), torch.from_numpy(z["labels"]).long())
    assert len(rows)
    for row in rows:
        assert value.item() == pytest.approx(float(z["loss"][row]), rel=2e-6, abs=2e-6)
