"""Losses that look at the lengths of embeddings get them from the loop as long as the head makes them."""

from pathlib import Path
from typing import Any

import pytest
import torch

import nearfar
from nearfar.config import Config
from nearfar.models import Embedder
from nearfar.similarity import normalize
from nearfar.train import RunInterrupted, read_log, train
from nearfar.train.gradient import gradient
from nearfar.train.network import network_for
from nearfar.train.precision import Numerics
from nearfar.train.setup import Parts, assemble, tables_of
from stopped_runs import At, assert_same_weights, changed, interrupt

# The N-pair paper: inner products, and the squared length as a term of its own.
NPAIR = {"name": "npair", "similarity": "dot", "add": [{"name": "l2_norm", "weight": 0.05}]}


def with_loss(config: Config, loss: dict[str, Any], **sections: dict[str, Any]) -> Config:
    """Batches of 6; no batch norm, so that they may go in chunks."""
    whole = {**config.to_dict(), "loss": loss, **sections}
    return changed(Config.model_validate(whole), "model", backbone="nearfar/small-group-norm")


def one_batch(config: Config, chunk: int = 0) -> tuple[Parts, torch.Tensor, list[torch.Tensor]]:
    """Take the gradient of the first batch; return what it came to with the images as they were seen."""
    parts = assemble(config, tables_of(config), torch.device("cpu"))
    images, labels, ids = next(iter(parts.images.batches(parts.sampler)))
    drawn = parts.augment.draw(len(images), torch.Generator().manual_seed(0))
    done = gradient(
        parts,
        network_for(parts.embedder, parts.loss),
        Numerics("float32", False, ""),
        images,
        labels,
        ids,
        drawn=drawn,
        place=(1, 0, 0),
        chunk=chunk,
        telling=None,
    )
    torch.testing.assert_close(done.embeddings.norm(dim=1), torch.ones(len(images)))
    return parts, done.value, [parts.augment.apply(images, drawn), labels]


@pytest.mark.parametrize("chunk", [0, 4])
def test_npair_with_l2_norm_is_the_papers(config: Config, chunk: int) -> None:
    """-log softmax over inner products, averaged over the positives, and λ/2 |x|², written out."""
    parts, value, (pixels, labels) = one_batch(with_loss(config, NPAIR), chunk)
    found = [p.grad.clone() for p in parts.embedder.parameters()]
    parts.embedder.zero_grad()
    x = parts.embedder.head(parts.embedder.features(pixels))
    s, same = x @ x.T, labels[:, None] == labels
    each = []
    for i in range(len(x)):
        rivals = [s[i, j] for j in range(len(x)) if not same[i, j]]
        positives = [j for j in range(len(x)) if same[i, j] and j != i]
        each.append(
            torch.stack([(1 + sum((r - s[i, p]).exp() for r in rivals)).log() for p in positives]).mean()
        )
    expected = torch.stack(each).mean() + 0.05 * (x.square().sum(1) / 2).mean()
    expected.backward()
    torch.testing.assert_close(value, expected.detach())
    for p, g in zip(parts.embedder.parameters(), found, strict=True):
        torch.testing.assert_close(g, p.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        ({"name": "supcon"}, False),
        ({"name": "supcon", "similarity": "dot"}, False),
        ({"name": "npair", "similarity": "dot"}, False),
        ({"name": "npair", "similarity": "dot", "l2": 0.002}, True),
        ({"name": "snr_contrastive", "add": [{"name": "zero_mean"}]}, True),
        ({"name": "supcon", "add": [{"name": "uniformity"}]}, False),
        ({"name": "adaface"}, True),
        ({"name": "sphereface"}, True),
        ({"name": "large_margin_softmax"}, True),
        ({"name": "arcface"}, False),
        ({"name": "supcon", "add": [{"name": "l2_norm"}]}, True),
    ],
)
def test_who_sees_lengths(config: Config, loss: dict[str, Any], wanted: bool) -> None:
    parts, value, (pixels, labels) = one_batch(with_loss(config, loss))
    assert parts.loss.reads_lengths is wanted
    x = parts.embedder.project(pixels)
    torch.testing.assert_close(normalize(x), parts.embedder(pixels))
    again = assemble(with_loss(config, loss), parts.tables, torch.device("cpu")).loss
    torch.testing.assert_close(value, again(x if wanted else normalize(x), labels).detach())


def test_a_run_with_lengths_is_resumed_and_goes_in_chunks(config: Config, tmp_path: Path) -> None:
    """With a memory of embeddings as they were made; what is stored has their lengths."""
    config = with_loss(config, NPAIR, memory={"size": 20})
    train(config, tmp_path / "whole", progress=False)
    with pytest.raises(RunInterrupted):
        train(config, tmp_path / "run", progress=False, trackers=[At(interrupt, kind="step", step=5)])
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    sgd = changed(config, "optimizer", name="sgd")
    told = []
    for name, chunk in (("one", 0), ("two", 4)):
        train(changed(sgd, "batch", chunk=chunk), tmp_path / name, progress=False)
        log = [line for line in read_log(tmp_path / name / "log.jsonl") if line["kind"] == "step"]
        told.append([line[key] for line in log for key in ("loss", "loss_l2_norm", "gradient_norm")])
    assert told[1] == pytest.approx(told[0], rel=1e-4)
    stored = torch.load(tmp_path / "whole" / "last" / "checkpoint.pt", weights_only=True)["memory"]
    (rows,) = [rows for name, rows in stored.items() if name.endswith("embeddings")]
    assert (rows.norm(dim=1) - 1).abs().max() > 0.1
    log = [line for line in read_log(tmp_path / "whole" / "log.jsonl") if line["kind"] == "step"]
    assert all(0 <= line["spread"] <= 1.001 for line in log)


def test_adaface_follows_the_lengths(config: Config, tmp_path: Path) -> None:
    train(with_loss(config, {"name": "adaface"}), tmp_path, progress=False)
    loss = torch.load(tmp_path / "last" / "checkpoint.pt", weights_only=True)["loss"]
    at_unit_length = 20.0
    for _ in range(12):
        at_unit_length = 0.99 * at_unit_length + 0.01
    assert abs(float(loss["running_mean"]) - at_unit_length) > 1e-3


def test_the_model_of_a_run_makes_unit_length(config: Config, tmp_path: Path) -> None:
    train(with_loss(config, NPAIR), tmp_path, progress=False)
    embedder = Embedder.load(tmp_path)
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(embedder(images).norm(dim=1), torch.ones(3))


def test_a_dry_run_shows_the_loss_what_training_does(config: Config, tmp_path: Path) -> None:
    config = with_loss(config, {"name": "supcon", "add": [{"name": "l2_norm", "weight": 1000.0}]})
    plan = train(config, tmp_path / "run", dry_run=True, progress=False).plan
    assert plan is not None
    assert abs(plan.loss_value - 500) > 5  # what unit length would make of it


def test_a_sum_says_what_its_parts_do() -> None:
    assert not nearfar.losses.Sum({"supcon": 1.0, "uniformity": 1.0}).reads_lengths
    assert nearfar.losses.Sum({"supcon": 1.0, "zero_mean": 1.0}).reads_lengths
