"""What the trained model is compared with: raw pixels, and the same network before its first step."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from drawn_pictures import draw_pictures
from nearfar.config import Config
from nearfar.errors import CheckpointError
from nearfar.models import Embedder
from nearfar.report import gather, write_report
from nearfar.report.baselines import before_training, calibrate, pixel_embeddings
from nearfar.train import train
from nearfar.train.randomness import own_randomness, seed_everything

SETTINGS = ["train.epochs=1", "batch.classes_per_batch=3", "batch.images_per_class=2", "train.seed=7", "model.dim=8",
            "model.backbone=nearfar/small", "model.size=32", "optimizer.warmup_epochs=0", "train.precision=float32"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one epoch on twelve classes of drawn pictures."""
    source = tmp_path_factory.mktemp("source")
    for label in range(12):
        (source / f"class-{label:02d}").mkdir()
    table = draw_pictures(source, [str(label) for label in range(12)], 4)
    for path, label in zip(table.path, table.label, strict=True):
        file = source / path
        file.rename(source / f"class-{label:02d}" / file.name)
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(Config.load(str(source), SETTINGS), folder, command="nearfar train drawn", progress=False)
    return folder


def test_pixels_are_area_means_without_their_mean(tmp_path):
    table = draw_pictures(tmp_path, ["a"], 2)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    table.path[0] = str(tmp_path / "large.png")
    found = pixel_embeddings(table)
    # The area average of blocks of 2 x 3 pixels, in loops.
    small = pixels.reshape(32, 2, 32, 3, 3).astype(np.float64).mean(axis=(1, 3)).ravel()
    wanted = small - small.mean()
    wanted /= np.linalg.norm(wanted)
    assert found.shape == (2, 3 * 32 * 32)
    np.testing.assert_allclose(found[0], wanted, atol=2e-3)  # the picture's averages are whole numbers
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_a_picture_of_one_colour_is_no_nan(tmp_path):
    table = draw_pictures(tmp_path, ["a"], 1)
    Image.new("RGB", (40, 40), (7, 7, 7)).save(table.path[0])
    assert np.isfinite(pixel_embeddings(table)).all()


def test_before_training_is_the_run_at_step_zero(run):
    config = Config.load(run / "config.toml")
    trained = Embedder.load(run / "model")
    from nearfar.train.setup import tables_of

    tables = tables_of(config)
    found = before_training(config, trained, tables.train, tables.test, lambda *told: None)
    with own_randomness():
        seed_everything(7)
        untrained = Embedder(**config.model.model_dump())
    norms = [module for module in untrained.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    calibrate(untrained, norms, tables.train, 7)
    torch.testing.assert_close(torch.from_numpy(found), untrained.encode(tables.test))
    assert not np.allclose(found, trained.encode(tables.test).numpy(), atol=1e-3)


def test_calibration_changes_statistics_and_nothing_else(tmp_path):
    table = draw_pictures(tmp_path, ["a", "b"], 8)
    embedder = Embedder("nearfar/small", dim=8, size=32, pretrained=False)
    norms = [module for module in embedder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    weights = {name: value.clone() for name, value in embedder.named_parameters()}
    momentum = norms[0].momentum
    calibrate(embedder, norms, table, 0)
    for name, value in embedder.named_parameters():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)
    assert norms[0].momentum == momentum
    assert not any(norm.training for norm in norms)
    first = next(module for module in embedder.modules() if isinstance(module, torch.nn.Conv2d))
    images = torch.cat(list(embedder.prepared(table.path.tolist(), 64)))
    wanted = first((images - embedder.mean) / embedder.std)
    torch.testing.assert_close(norms[0].running_mean, wanted.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_from_a_run_to_its_report(run, tmp_path):
    told = []
    material = gather(run, progress=lambda words, done, total: told.append(words))
    assert list(material.embeddings) == ["pixels", "before", "after"]
    assert {"pixels", "before training", "trained model", "evaluate"} <= set(told)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(material.train) == log[0]["train"]["images"]
    assert len(material.test) == log[0]["test"]["images"]
    assert material.weights == log[0]["weights"]
    assert material.names["before"] == "before training"
    path = write_report(material, tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["run"]["command"] == "nearfar train drawn"
    assert result["run"]["seed"] == 7
    assert result["results"]["after"]["recall_at_k"]["1"] == material.results["after"].recall_at_k[1]
    again = gather(run, against=path.parent)
    assert again.previous == result
    for kind, rows in material.embeddings.items():
        np.testing.assert_array_equal(rows, again.embeddings[kind])


def test_what_is_no_run_or_no_report(run, tmp_path):
    with pytest.raises(CheckpointError, match=r"it has no config\.toml"):
        gather(tmp_path)
    with pytest.raises(CheckpointError, match="write the report of that run first"):
        gather(run, against=tmp_path)
    (tmp_path / "result.json").write_text("not json")
    with pytest.raises(CheckpointError, match="not the result of a run"):
        gather(run, against=tmp_path)
