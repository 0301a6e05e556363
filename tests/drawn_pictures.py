"""A small material of drawn pictures: circles and squares in the colours of their classes."""

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from nearfar.data.table import Table
from nearfar.report.baselines import measure, pixel_embeddings
from nearfar.report.material import Material


def draw_pictures(
    folder: Path, classes: list[str], per_class: int | list[int], side: int = 48, seed: int = 0
) -> Table:
    generator = np.random.default_rng(seed)
    counts = [per_class] * len(classes) if isinstance(per_class, int) else per_class
    paths, labels = [], []
    for label, count in enumerate(counts):
        colour = tuple(int(255 * part) for part in colorsys.hsv_to_rgb(label / len(classes), 0.8, 0.8))
        for number in range(count):
            image = Image.new("RGB", (side, side), (240, 240, 240))
            x, y, r = generator.integers(side // 4, side // 2, 3)
            box = (int(x - r // 2), int(y - r // 2), int(x + r), int(y + r))
            pen = ImageDraw.Draw(image)
            (pen.ellipse if label % 2 else pen.rectangle)(box, fill=colour)
            path = folder / f"{seed}-{label}-{number}.png"
            image.save(path)
            paths.append(str(path))
            labels.append(label)
    return Table(np.array(paths, object), np.array(labels, np.int64), tuple(classes), {}, "drawn", "drawn")


def noisy_means(labels: np.ndarray, noise: float, dim: int = 16, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    means = generator.standard_normal((labels.max() + 1, dim))
    rows = means[labels] + noise * generator.standard_normal((len(labels), dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def drawn_log(steps: int = 40) -> list[dict]:
    lines: list[dict] = [{"kind": "start", "step": 0}]
    for step in range(1, steps + 1):
        share = step / steps
        lines.append(
            {
                "kind": "step",
                "step": step,
                "epoch": step // 10,
                "loss": 1 - 0.7 * share,
                "active": 1 - 0.5 * share,
                "positive_similarity": 0.4 + 0.4 * share,
                "negative_similarity": 0.3 - 0.2 * share,
                "spread": 0.6,
                "gradient_norm": None if step == 3 else 1.0,
            }
        )
        if step % 10 == 0:
            lines.append(
                {
                    "kind": "validation",
                    "step": step,
                    "epoch": step // 10 - 1,
                    "recall_at_1": 0.5 + 0.1 * share,
                    "map_at_r": 0.3,
                    "best": step <= 30,
                }
            )
    return lines


def drawn_material(folder: Path, classes: list[str], per_class: int | list[int] = 6, **more) -> Material:
    test = draw_pictures(folder, classes, per_class)
    train = draw_pictures(folder, ["other-1", "other-2"], 4, seed=1)
    embeddings = {
        "pixels": pixel_embeddings(test),
        "before": noisy_means(test.label, 2.0),
        "after": noisy_means(test.label, 0.6),
    }
    results = {kind: measure(rows, test) for kind, rows in embeddings.items()}
    given = {
        "log": drawn_log(),
        "config": {
            "model": {"backbone": "nearfar/small", "dim": 16, "pretrained": True},
            "train": {"epochs": 4, "seed": 3},
        },
        "defaults": {
            "model": {"backbone": "resnet18", "dim": 16, "pretrained": True},
            "train": {"epochs": 4, "seed": 1},
        },
        "run": {
            "command": "nearfar train drawn train.seed=3",
            "seed": 3,
            "seconds": 75.2,
            "machine": "a machine",
            "started": "2026-11-22T03:51:06+00:00",
            "commit": "abc",
            "versions": {"torch": "2"},
        },
        "weights": 1234,
        "train_pixels": pixel_embeddings(train),
    } | more
    return Material(test, embeddings, results, train, **given)
