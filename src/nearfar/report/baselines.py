"""From a run folder to the material of its report: what the model knows, and what it is compared with."""

import json
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from nearfar.config import Config
from nearfar.data import Table, decode, find_unreadable
from nearfar.errors import CheckpointError
from nearfar.evaluate import RetrievalResult, retrieval
from nearfar.models import Embedder
from nearfar.report.material import Material, Progress, quiet
from nearfar.train import read_log
from nearfar.train.folder import CONFIG, LOG, MODEL
from nearfar.train.precision import choose_device
from nearfar.train.randomness import own_randomness, seed_everything
from nearfar.train.setup import tables_of, weight_count

KS = (1, 2, 4, 8, 16, 32)
RESAMPLES = 1000
SIDE = 32
# Batch norm knows the images well enough after this many.
CALIBRATION = 1024


def gather(
    run_folder: str | Path, *, against: str | Path | None = None, progress: Progress | None = None
) -> Material:
    """Embed the test images of a run by pixels, by the untrained and by the trained model, and measure each.

    Args:
        run_folder: as ``nearfar.train.train`` wrote it.
        against: folder (or ``result.json``) of an earlier run to compare with.
        progress: called with what is being done, how many steps of it are done, and of how many.

    Raises:
        CheckpointError: if the folder holds no finished model, or ``against`` has no report.
    """
    folder = Path(run_folder)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{folder} is not the folder of a run: it has no {CONFIG}; give one that train made."
        )
    tell = progress or quiet
    config = Config.load(folder / CONFIG)
    tables = tables_of(config)
    test, train = readable(tables.test, config), readable(tables.train, config)
    trained = Embedder.load(folder / MODEL).to(choose_device("auto"))
    log = read_log(folder / LOG) if (folder / LOG).is_file() else []
    embeddings = {
        "pixels": pixel_embeddings(test, partial(tell, "pixels")),
        "before": before_training(config, trained, train, test, tell),
        "after": trained.encode(test, progress=partial(tell, "trained model")).numpy(),
    }
    results = {}
    for done, (kind, rows) in enumerate(embeddings.items()):
        tell("evaluate", done, len(embeddings))
        results[kind] = measure(rows, test, config.train.seed)
    tell("evaluate", len(embeddings), len(embeddings))
    return Material(
        test=test,
        embeddings=embeddings,
        results=results,
        train=train,
        log=log,
        config=tomllib.loads((folder / CONFIG).read_text(encoding="utf-8")),
        run=_story(log, config),
        weights=weight_count([trained]),
        previous=None if against is None else _previous(Path(against)),
        defaults=Config().to_dict(),
        train_pixels=pixel_embeddings(train, partial(tell, "training pixels")),
    )


def measure(embeddings: Float32[np.ndarray, "n dim"], table: Table, seed: int = 0) -> RetrievalResult:
    """Retrieval among the rows of a table, each a query against all others, with bootstrap intervals."""
    ks = [k for k in KS if k < len(table)] or [1]
    return retrieval(embeddings, table.label, ks=ks, bootstrap=RESAMPLES, seed=seed)


def pixel_embeddings(
    table: Table, progress: Callable[[int, int], None] | None = None
) -> Float32[np.ndarray, "n dim"]:
    """Pictures as they are: shrunk to 32 x 32 by averaging areas, mean removed, unit length."""
    rows = np.empty((len(table), 3 * SIDE * SIDE), np.float32)
    for place, path in enumerate(table.path):
        small = decode(path).resize((SIDE, SIDE), Image.Resampling.BOX)
        rows[place] = np.asarray(small, np.float32).ravel() / 255
        if progress is not None and (place % 64 == 63 or place + 1 == len(table)):
            progress(place + 1, len(table))
    rows -= rows.mean(axis=1, keepdims=True)
    # A picture of one colour has no direction; a tiny floor leaves it at zero instead of NaN.
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)


def before_training(
    config: Config, trained: Embedder, train: Table, test: Table, tell: Progress
) -> Float32[np.ndarray, "n dim"]:
    """Embed the test pictures with the model as it was before the first step.

    It has the initial weights of the run, since they are drawn with the run's seed. Pretrained weights are
    judged by their pooled features, without the head, which would only blur them by a random projection.
    Batch norm of weights drawn at random has seen no picture: it is first shown training pictures.
    """
    with own_randomness():
        seed_everything(config.train.seed)
        untrained = Embedder(**config.model.model_dump()).to(trained.mean.device)
    # Trained on a network of the caller's own: nothing is known of what it was before.
    if untrained.backbone_name != trained.backbone_name:
        raise CheckpointError(
            f"the model was trained from {trained.backbone_name!r} but config.toml says "
            f"{untrained.backbone_name!r}; the report needs the configuration of the model."
        )
    pretrained = config.model.pretrained and not untrained.backbone_name.startswith("nearfar/")
    norms = [module for module in untrained.modules() if isinstance(module, _BatchNorm)]
    if norms and not pretrained:
        calibrate(untrained, norms, train, config.train.seed)
    return untrained.encode(test, head=not pretrained, progress=partial(tell, "before training")).numpy()


def calibrate(embedder: Embedder, norms: list[_BatchNorm], train: Table, seed: int) -> None:
    """Measure the statistics of batch norm on training pictures; no weight changes."""
    rows = np.random.default_rng(seed).permutation(len(train))[:CALIBRATION]
    kept: list[tuple[_BatchNorm, float | None]] = []
    embedder.eval()
    for norm in norms:
        kept.append((norm, norm.momentum))
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    with torch.no_grad():
        for batch in embedder.prepared(train.path[rows].tolist(), 64):
            if len(batch) > 1:
                embedder.features(_on(batch, embedder))
    for norm, momentum in kept:
        norm.momentum = momentum
    embedder.eval()


def _on(batch: Tensor, embedder: Embedder) -> Tensor:
    return batch.to(embedder.mean.device)


def readable(table: Table, config: Config) -> Table:
    """Leave out what the run left out."""
    if not config.data.skip_unreadable:
        return table
    broken = {problem.path for problem in find_unreadable(table)}
    return table.select(np.array([path not in broken for path in table.path], bool))


def _story(log: list[dict[str, Any]], config: Config) -> dict[str, Any]:
    """What the log tells of the run as a whole."""
    start = next((line for line in log if line.get("kind") == "start"), {})
    end = next((line for line in reversed(log) if line.get("kind") == "end"), {})
    seconds = end.get("seconds", log[-1].get("seconds") if log else None)
    keys = ("command", "commit", "machine", "versions", "started", "device")
    story = {key: start[key] for key in keys if start.get(key) is not None}
    if isinstance(numerics := start.get("numerics"), dict):
        story |= {"precision": numerics.get("precision"), "precision_reason": numerics.get("reason")}
    return {**story, "seconds": seconds, "seed": config.train.seed}


def _previous(path: Path) -> dict[str, Any]:
    file = path / "result.json" if path.is_dir() else path
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{file} does not exist; write the report of that run first: nearfar report {path}"
        ) from None
    except ValueError:
        raise CheckpointError(
            f"{file} is not the result of a run; give the folder of one that has a report."
        ) from None
