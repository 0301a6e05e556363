"""Outputs of the original implementations (tests/golden/losses/README.md)."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import nearfar
from problems import golden_folder


def cases(system: str) -> list[Path]:
    found = sorted((golden_folder / "losses" / system).glob("*.npz"))
    assert found, system
    return found


def load(path: Path, dtype: torch.dtype = torch.float64) -> tuple[dict, dict, Tensor, Tensor]:
    z = dict(np.load(path, allow_pickle=False))
    config = json.loads(str(z.pop("config")))
    x = torch.from_numpy(z["embeddings"]).to(dtype).requires_grad_()
    return z, config, x, torch.from_numpy(z["labels"]).long()


def check(loss: nearfar.losses.Loss, z: dict, x: Tensor, labels: Tensor, what: str = "") -> None:
    """Compare with the originals (float32) to the tolerances of the README."""
    ours = loss(x, labels)
    (grad,) = torch.autograd.grad(ours, x)
    value, expected = z[f"loss{what}"], z[f"grad{what}"]
    assert ours.item() == pytest.approx(float(value), rel=2e-6, abs=2e-6)
    assert np.abs(grad.numpy() - expected).max() <= 1e-5 * np.abs(expected).max() + 1e-7


def check_deep_metric(loss: nearfar.losses.Loss, config: dict, z: dict, x: Tensor, labels: Tensor) -> None:
    """The originals exclude an anchor from itself by value (s < 1); ours exclude it by index.

    Where rounding let an anchor be its own positive, the value moves by rounding and the gradient only
    along the anchor itself, which normalisation removes: there we compare what is left.
    """
    if not config["rows_with_self_below_1"]:
        check(loss, z, x, labels)
        return
    ours = loss(x, labels)
    (grad,) = torch.autograd.grad(ours, x)
    assert ours.item() == pytest.approx(float(z["loss"]), rel=2e-6, abs=2e-6)
    difference = grad - torch.from_numpy(z["grad"]).to(grad)
    unit = torch.nn.functional.normalize(x.detach(), dim=1)
    tangent = difference - unit * (difference * unit).sum(1, keepdim=True)
    assert tangent.abs().max() <= 1e-5 * np.abs(z["grad"]).max() + 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("path", cases("dm_contrastive"), ids=lambda p: p.stem)
def test_deep_metric_contrastive(path, dtype):
    z, config, x, labels = load(path, dtype)
    loss = nearfar.losses.create(
        "contrastive", similarity="dot", positive_margin=1.0, negative_margin=config["margin"], whole=True
    )
    check_deep_metric(loss, config, z, x, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("path", cases("ms_loss"), ids=lambda p: p.stem)
def test_multi_similarity(path, dtype):
    z, config, x, labels = load(path, dtype)
    loss = nearfar.losses.create(
        "multi_similarity",
        mining="multi_similarity",
        similarity="dot",
        alpha=config["scale_pos"],
        beta=config["scale_neg"],
    )
    check_deep_metric(loss, config, z, x, labels)


@pytest.mark.parametrize("path", cases("triplet_mining"), ids=lambda p: p.stem)
def test_batch_all_and_batch_hard(path):
    z, config, x, labels = load(path)
    create = partial(nearfar.losses.create, "triplet", margin=config["margin"], similarity=config["distance"])
    z = {
        key.replace("batch_all_loss_", "loss_").replace("batch_all_grad_", "grad_"): v for key, v in z.items()
    }
    z = {
        key.replace("batch_hard_loss", "loss_hard").replace("batch_hard_grad", "grad_hard"): v
        for key, v in z.items()
    }
    check(create(), z, x, labels, "_nonzero_mean")
    check(create(reduction="mean_terms"), z, x, labels, "_all_mean")
    check(create(mining="hard"), z, x, labels, "_hard")


@pytest.mark.parametrize("path", cases("triplet_mining"), ids=lambda p: p.stem)
def test_hard_mining_chooses_the_original_triplets(path):
    z, config, x, labels = load(path)
    pairs = nearfar.mining.create("hard")(nearfar.Pairs.within(x, labels, similarity=config["distance"]))
    positive = dict(zip(pairs.positives.anchor.tolist(), pairs.positives.candidate.tolist(), strict=True))
    negative = pairs.chosen.columns[:, 0].tolist()
    ours = [(a, p, negative[a]) for a, p in sorted(positive.items()) if negative[a] >= 0]
    assert ours == sorted(map(tuple, z["batch_hard_triplets"].tolist()))


@pytest.mark.parametrize("path", cases("facenet_semihard"), ids=lambda p: p.stem)
def test_semi_hard(path):
    z, config, x, labels = load(path)
    create = partial(nearfar.losses.create, "triplet", margin=config["margin"], similarity=config["distance"])
    check(create(mining="semi_hard"), z, x, labels, "_strict")
    check(create(mining={"name": "semi_hard", "otherwise": "farthest"}), z, x, labels, "_tf")


@pytest.mark.parametrize("path", cases("facenet_semihard"), ids=lambda p: p.stem)
def test_semi_hard_mining_chooses_the_defined_negatives(path):
    z, config, x, labels = load(path)
    pairs = nearfar.Pairs.within(x, labels, similarity=config["distance"])
    for otherwise, field in [("drop", "negative_strict"), ("farthest", "negative_tf_fallback")]:
        rule = {"name": "semi_hard", "margin": config["margin"], "otherwise": otherwise}
        mined = nearfar.mining.create(rule)(pairs)
        ours = zip(
            mined.positives.anchor.tolist(),
            mined.positives.candidate.tolist(),
            mined.chosen.columns[:, 0].tolist(),
            strict=True,
        )
        expected = [
            (*pair, n) for pair, n in zip(z["pairs"].tolist(), z[field].tolist(), strict=True) if n >= 0
        ]
        assert sorted(ours) == sorted(tuple(triplet) for triplet in expected)


@pytest.mark.parametrize("path", cases("pml_losses"), ids=lambda p: p.stem)
def test_multi_similarity_of_pytorch_metric_learning(path):
    z, _, x, labels = load(path)
    check(
        nearfar.losses.create("multi_similarity", similarity="dot"),
        z,
        x,
        labels,
        "_multi_similarity_all_pairs",
    )
    mined = nearfar.losses.create("multi_similarity", similarity="dot", beta=40.0, mining="multi_similarity")
    check(mined, z, x, labels, "_multi_similarity_mined")
