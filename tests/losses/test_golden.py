"""Outputs of the original implementations (tests/golden/losses/README.md)."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import nearfar
from nearfar.losses.parts.registry import registry
from nearfar.similarity import Max, Min
from problems import golden_folder

both_precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


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
    check_value(loss(x, labels), x, z[f"loss{what}"], z[f"grad{what}"])


def check_value(ours: Tensor, x: Tensor, value: np.ndarray, expected: np.ndarray) -> None:
    (grad,) = torch.autograd.grad(ours, x)
    assert ours.item() == pytest.approx(float(value), rel=2e-6, abs=2e-6)
    assert np.abs(grad.numpy() - expected).max() <= 1e-5 * np.abs(expected).max() + 1e-7


def mean_of(name: str, pairs: nearfar.Pairs, **settings: object) -> Tensor:
    """A loss of pairs that no rule of ours would choose, averaged over all anchors."""
    value = registry[name].function(pairs, **settings)
    return value.mean() if isinstance(value, Tensor) else value.reduce("mean")


def with_self_where_the_original_has(x: Tensor, labels: Tensor, z: dict) -> nearfar.Pairs:
    """The originals drop a pair of similarity 1 instead of the anchor itself: where rounding made the anchor's
    similarity with itself less than 1, it is one of its own positives."""
    itself = torch.from_numpy(z["grad_sim"]).diagonal() != 0
    assert itself.any()
    own = torch.where(itself, -1, torch.arange(len(x)))
    return nearfar.Pairs.between(x, labels, x, labels, own, similarity="dot")


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


@both_precisions
@pytest.mark.parametrize("path", cases("dm_contrastive"), ids=lambda p: p.stem)
def test_deep_metric_contrastive(path, dtype):
    z, config, x, labels = load(path, dtype)
    loss = nearfar.losses.create(
        "contrastive", similarity="dot", positive_margin=1.0, negative_margin=config["margin"], whole=True
    )
    check_deep_metric(loss, config, z, x, labels)


@both_precisions
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


@both_precisions
@pytest.mark.parametrize("path", cases("dm_binomial"), ids=lambda p: p.stem)
def test_deep_metric_binomial_deviance(path, dtype):
    z, config, x, labels = load(path, dtype)
    settings = {"alpha": 2.0, "beta": config["alpha"], "base": config.get("margin", 0.5)}
    mining = None
    if config.get("hard_mining"):
        settings |= {"alpha": config["beta"], "positive_weight": 2 / config["beta"]}
        settings |= {"negative_weight": 2 / config["alpha"]}
        mining = "multi_similarity"
    if config["rows_with_self_below_1"]:
        ours = mean_of("binomial_deviance", with_self_where_the_original_has(x, labels, z), **settings)
        check_value(ours, x, z["loss"], z["grad"])
    else:
        loss = nearfar.losses.create("binomial_deviance", similarity="dot", mining=mining, **settings)
        check(loss, z, x, labels)


@both_precisions
@pytest.mark.parametrize("path", cases("dm_lifted"), ids=lambda p: p.stem)
def test_deep_metric_lifted_structure(path, dtype):
    z, config, x, labels = load(path, dtype)
    name, settings = "lifted_structure_generalized", {"alpha": config["beta"], "beta": config["alpha"]}
    settings |= {"variant": "smooth"}
    if config["rows_with_self_below_1"]:
        ours = mean_of(name, with_self_where_the_original_has(x, labels, z), **settings)
        check_value(ours, x, z["loss"], z["grad"])
    else:
        mining = "multi_similarity" if config.get("hard_mining") else None
        check(nearfar.losses.create(name, similarity="dot", mining=mining, **settings), z, x, labels)


@both_precisions
@pytest.mark.parametrize("path", cases("lifted_paper"), ids=lambda p: p.stem)
def test_lifted_structure_of_its_authors(path, dtype):
    """Their gradient carries the layer's weight, their value does not."""
    z, config, x, labels = load(path, dtype)
    weight = config["loss_weight"]
    ours = nearfar.losses.create("lifted_structure", similarity="euclidean", margin=config["margin"])(
        x, labels
    )
    check_value(weight * ours, x, weight * z["loss"], z["grad"])


@both_precisions
@pytest.mark.parametrize("path", cases("dm_nca"), ids=lambda p: p.stem)
def test_deep_metric_nca_as_written(path, dtype):
    z, config, x, labels = load(path, dtype)
    loss = nearfar.losses.create(
        "nca", similarity="dot", temperature=1 / config["alpha"], neighbours=config["k"], inverted=True
    )
    check_deep_metric(loss, config, z, x, labels)


@both_precisions
@pytest.mark.parametrize("path", cases("dm_hardmining"), ids=lambda p: p.stem)
def test_deep_metric_hard_mining(path, dtype):
    z, config, x, labels = load(path, dtype)
    loss = nearfar.losses.create(
        "contrastive",
        mining="multi_similarity",
        similarity="dot",
        positive_margin=1.0,
        negative_margin=-1.0,
        whole=True,
        balance="anchor",
    )
    check_deep_metric(loss, config, z, x, labels)


@both_precisions
@pytest.mark.parametrize("path", cases("dm_semihard"), ids=lambda p: p.stem)
def test_deep_metric_semi_hard(path, dtype):
    """Twice the multi-similarity loss of what is left when the hardest pairs are dropped."""
    z, config, x, labels = load(path, dtype)
    pairs = nearfar.Pairs.within(x, labels, similarity="dot")
    (least,) = pairs.stream(Min())
    s = pairs.positives.similarity.detach()
    kept = pairs.narrow(positives=s > least[pairs.positives.anchor], below=pairs.per_anchor(s, "max"))
    ours = 2 * mean_of("multi_similarity", kept, alpha=config["beta"], beta=config["alpha"])
    check_value(ours, x, z["loss"], z["grad"])


@both_precisions
@pytest.mark.parametrize("path", cases("npair_sohn"), ids=lambda p: p.stem)
def test_npair(path, dtype):
    z, config, x, labels = load(path, dtype)
    odd, even = torch.arange(1, len(x), 2), torch.arange(0, len(x), 2)
    for l2, value, grad in [
        (0.0, z["loss_mc"], z["grad_mc"]),
        (config["l2_reg"], z["loss_mc"] + z["loss_l2"], z["grad_mc"] + z["grad_l2"]),
    ]:
        loss = nearfar.losses.create("npair", similarity="dot", l2=l2)
        check_value(loss(x[even], labels[even], x[odd], labels[odd]), x, value, grad)


@both_precisions
@pytest.mark.parametrize("path", cases("xbm_rect"), ids=lambda p: p.stem)
def test_against_a_memory(path, dtype):
    z, config, x, labels = load(path, dtype)
    reference, reference_labels = (
        torch.from_numpy(z["ref"]).to(dtype),
        torch.from_numpy(z["ref_labels"]).long(),
    )
    match config["criterion"]:
        case "contrastive":
            loss = nearfar.losses.create(
                "contrastive", similarity="dot", positive_margin=1.0, negative_margin=0.5, whole=True
            )
            ours = loss(x, labels, reference, reference_labels)
        case "ms":
            loss = nearfar.losses.create(
                "multi_similarity", similarity="dot", beta=40.0, mining="multi_similarity"
            )
            ours = loss(x, labels, reference, reference_labels)
        case "xbm_triplet_square_only":
            pairs = nearfar.Pairs.within(x, labels, similarity="dot")
            (nearest,) = pairs.stream(Max())
            s = pairs.positives.similarity.detach()
            kept = pairs.narrow(
                positives=s < nearest[pairs.positives.anchor] + 0.1,
                above=pairs.per_anchor(s, "max").clamp_min(0.6) - 0.1,
            )
            ours = mean_of("contrastive", kept, positive_margin=1.0, negative_margin=-1.0, whole=True)
    check_value(ours, x, z["loss"], z["grad"])


PML = {
    "nca_sq_euclid": ("nca", {"temperature": 1.0, "similarity": "squared_euclidean"}),
    "nca_dot_scale16": ("nca", {"temperature": 1 / 16, "similarity": "dot"}),
    "multi_similarity_all_pairs": ("multi_similarity", {"similarity": "dot"}),
    "multi_similarity_mined": (
        "multi_similarity",
        {"similarity": "dot", "beta": 40.0, "mining": "multi_similarity"},
    ),
    "lifted_euclid": ("lifted_structure", {"similarity": "euclidean"}),
    "generalized_lifted_euclid": ("lifted_structure_generalized", {"similarity": "euclidean"}),
    "contrastive_euclid": (
        "contrastive",
        {"similarity": "euclidean", "balance": "batch", "reduction": "mean_active"},
    ),
    "contrastive_dot": (
        "contrastive",
        {
            "similarity": "dot",
            "positive_margin": 1.0,
            "negative_margin": 0.5,
            "balance": "batch",
            "reduction": "mean_active",
        },
    ),
}


@both_precisions
@pytest.mark.parametrize("what", PML)
@pytest.mark.parametrize("path", cases("pml_losses"), ids=lambda p: p.stem)
def test_pytorch_metric_learning(path, what, dtype):
    z, _, x, labels = load(path, dtype)
    name, settings = PML[what]
    check(nearfar.losses.create(name, **settings), z, x, labels, f"_{what}")
