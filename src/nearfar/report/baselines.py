"""From a run folder to the material of its report: what the model knows, and what it is compared with."""

import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from nearfar.config import Config
from nearfar.data import Table, UnreadableImage
from nearfar.errors import CheckpointError
from nearfar.evaluate import RetrievalResult, retrieval
from nearfar.models import Embedder
from nearfar.report.decoding import BATCH, Decoder, Part, Small, check_readable, directions, look
from nearfar.report.history import read_history
from nearfar.report.material import Material, Progress, quiet
from nearfar.report.opened import Run, check_classes, open_run, trained_classes
from nearfar.train.folder import CONFIG, LOG, MODEL
from nearfar.train.precision import choose_device
from nearfar.train.randomness import own_randomness, seed_everything
from nearfar.train.setup import weight_count

KS = (1, 2, 4, 8, 16, 32)
RESAMPLES = 1000
# Batch norm knows the images well enough after this many.
CALIBRATION = 1024


def gather(
    run_folder: str | Path,
    *,
    against: str | Path | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> Material:
    """Embed the test images of a run by pixels, by the untrained and by the trained model, and measure each.

    Each picture is decoded once.

    Args:
        run_folder: as ``nearfar.train.train`` wrote it.
        against: folder (or ``result.json``) of an earlier run to compare with.
        overrides: where the pictures are now, such as "data.source=photos", or "data.skip_unreadable=true".
        progress: called with what is being done, how many steps of it are done, and of how many.

    Raises:
        CheckpointError: if the folder holds no finished model, or ``against`` has no report.
        ConfigError: if an override is of anything but the pictures.
        DataError: if the pictures are not there or cannot be read.
    """
    tell = progress or quiet
    run = open_run(run_folder, overrides)
    config, trained = run.config, Embedder.load(run.folder / MODEL).to(choose_device("auto"))
    previous = None if against is None else _previous(Path(against))
    learned = trained_classes(run.folder)
    check_classes(run, learned)
    history = read_history(run.folder / LOG)
    untrained, norms, head = before_first_step(config, trained)
    small = Small()
    decoder = Decoder([untrained.preprocess], small)
    train, train_pixels = _look_at_training(run, decoder, untrained, norms, tell)
    looked = look(
        run.tables.test,
        [(untrained, head), (trained, True)],
        skip_unreadable=config.data.skip_unreadable,
        small=small,
        progress=partial(tell, "trained model"),
    )
    test, (before, after) = looked.table, looked.embeddings
    embeddings = {"pixels": looked.pixels, "before": before, "after": after}
    results = {}
    for words in ("pixels", "before training"):  # came with the trained model's
        tell(words, len(test), len(test))
    for done, (kind, rows) in enumerate(embeddings.items()):
        tell("evaluate", done, len(embeddings))
        results[kind] = measure(rows, test, config.train.seed)
    tell("evaluate", len(embeddings), len(embeddings))
    return Material(
        test=test,
        embeddings=embeddings,
        results=results,
        train=train,
        validation=run.tables.validation,
        log=history.records,
        lost=history.lost,
        config=tomllib.loads((run.folder / CONFIG).read_text(encoding="utf-8")),
        run={
            **_story(history.records, config),
            "chosen": _chosen(run.folder, history.records) | {"size": trained.preprocess.size},
        },
        weights=weight_count([trained]),
        previous=previous,
        defaults=Config().to_dict(),
        train_pixels=train_pixels,
        trained_classes=learned,
        small=small,
    )


def _look_at_training(
    run: Run, decoder: Decoder, untrained: Embedder, norms: Sequence[_BatchNorm], tell: Progress
) -> tuple[Table, Float32[np.ndarray, "n p"]]:
    """Decode the training pictures, let batch norm see some of them, and return those that could be read."""
    train, skip = run.tables.train, run.config.data.skip_unreadable
    first = calibration_rows(train, run.config.train.seed) if norms else np.empty(0, np.int64)
    pixels: dict[int, np.ndarray] = {}

    def taken(rows: np.ndarray, words: str, look: bool) -> Iterator[Part]:
        for part in decoder.parts(train.path[rows].tolist(), partial(tell, words), look=look):
            pixels.update(zip(rows[part.rows].tolist(), part.pixels, strict=True))
            yield part

    if norms:
        seen = (part.seen[0] for part in taken(first, "before training", True) if part.rows)
        settle(untrained, norms, (untrained.preprocess.center(batch) for batch in seen))
    for _ in taken(np.setdiff1d(np.arange(len(train)), first), "training pixels", False):
        pass
    check_readable(decoder.unreadable, train, skip)
    rows = np.array(sorted(pixels), np.int64)
    table = train if len(rows) == len(train) else train.select(rows)
    return table, directions([np.stack([pixels.pop(row) for row in rows.tolist()])])


def measure(embeddings: Float32[np.ndarray, "n dim"], table: Table, seed: int = 0) -> RetrievalResult:
    """Retrieval among the rows of a table, each a query against all others, with bootstrap intervals."""
    ks = [k for k in KS if k < len(table)] or [1]
    return retrieval(embeddings, table.label, ks=ks, bootstrap=RESAMPLES, seed=seed)


def pixel_embeddings(
    table: Table, progress: Callable[[int, int], None] | None = None
) -> Float32[np.ndarray, "n dim"]:
    """Pictures as they are: shrunk to 32 x 32 by averaging areas, mean removed, unit length."""
    decoder = Decoder([])
    found = directions([part.pixels for part in decoder.parts(table.path.tolist(), progress)])
    if decoder.unreadable:
        raise UnreadableImage(decoder.unreadable[0].path, decoder.unreadable[0].reason)
    return found


def before_training(
    config: Config, trained: Embedder, train: Table, test: Table, tell: Progress
) -> Float32[np.ndarray, "n dim"]:
    """Embed the test pictures with the model as it was before the first step.

    See ``before_first_step``. Batch norm of weights drawn at random is first shown training pictures.
    """
    untrained, norms, head = before_first_step(config, trained)
    if norms:
        calibrate(untrained, norms, train, config.train.seed)
    return untrained.encode(test, head=head, progress=partial(tell, "before training")).numpy()


def before_first_step(config: Config, trained: Embedder) -> tuple[Embedder, list[_BatchNorm], bool]:
    """Return the model as it was before the first step, the norms to settle in it, whether its head counts.

    It has the initial weights of the run, since they are drawn with the run's seed. Pretrained weights are
    judged by their pooled features, without the head, which would only blur them by a random projection.
    Batch norm of weights drawn at random has seen no picture and must be settled: see ``settle``.

    Raises:
        CheckpointError: if the model is not the one that the configuration describes.
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
    return untrained, [] if pretrained else norms, not pretrained


def calibration_rows(train: Table, seed: int) -> Int64[np.ndarray, " row"]:
    """Draw the training pictures that batch norm is shown."""
    return np.random.default_rng(seed).permutation(len(train))[:CALIBRATION]


def calibrate(embedder: Embedder, norms: list[_BatchNorm], train: Table, seed: int) -> None:
    """Measure the statistics of batch norm on training pictures; no weight changes."""
    paths = train.path[calibration_rows(train, seed)].tolist()
    settle(embedder, norms, embedder.prepared(paths, BATCH))


def settle(
    embedder: Embedder, norms: Sequence[_BatchNorm], batches: Iterable[Float[Tensor, "b 3 h w"]]
) -> None:
    """Measure the statistics of batch norm on these batches; no weight changes."""
    kept: list[tuple[_BatchNorm, float | None]] = []
    embedder.eval()
    for norm in norms:
        kept.append((norm, norm.momentum))
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    with torch.no_grad():
        for batch in batches:
            if len(batch) > 1:
                embedder.features(_on(batch, embedder))
    for norm, momentum in kept:
        norm.momentum = momentum
    embedder.eval()


def _on(batch: Tensor, embedder: Embedder) -> Tensor:
    return batch.to(embedder.mean.device)


def _chosen(folder: Path, log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What ``auto`` chose, as far as the run wrote it down."""
    start = next((line for line in log if line.get("kind") == "start"), {})
    found: dict[str, Any] = {}
    try:
        written = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        written = {}
    numerics, device = start.get("numerics"), start.get("device")
    if isinstance(numerics, dict):
        found |= {key: numerics[key] for key in ("precision", "reason") if key in numerics}
    if isinstance(device, str):
        found["device"] = device
    for told in (written.get("chosen") if isinstance(written, dict) else None, start.get("chosen")):
        found |= told if isinstance(told, dict) else {}
    return found


def _story(log: Sequence[Mapping[str, Any]], config: Config) -> dict[str, Any]:
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
