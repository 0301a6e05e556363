"""How much is learned on each pack: pixels, untrained, frozen, trained from nothing, fine-tuned; three seeds.

    python benchmarks/packs.py --packs emoji kanji --seeds 1 2 3

Each cell is a JSON file in benchmarks/results/packs; finished cells are kept, so the work goes on where it
stopped. Training follows recipes/PACK-scratch.toml and recipes/PACK-finetune.toml, uses the training classes
only, and reports the last epoch: nothing is selected. The table and the picture are made from the cells.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearfar.config import Config
from nearfar.data import Table, packs, train_and_test
from nearfar.evaluate import retrieval
from nearfar.files import write_atomically
from nearfar.models import Embedder
from nearfar.report.baselines import before_training, pixel_embeddings
from nearfar.train import train
from nearfar.train.environment import commit, machine

HERE = Path(__file__).parent
CELLS = HERE / "results" / "packs"
RECIPES = HERE.parent / "recipes"
METHODS = {
    "pixels": "raw pixels",
    "untrained": "untrained small network",
    "frozen": "frozen ImageNet features",
    "scratch": "trained from nothing",
    "finetune": "fine-tuned",
}
UNDER_BARS = ["raw\npixels", "un-\ntrained", "frozen", "from\nnothing", "fine-\ntuned"]
SEEDLESS = ("pixels", "frozen")
# Half-width of a 95 % interval of a mean over n seeds, in standard errors (Student's t).
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


@dataclass(frozen=True)
class Cell:
    """One method on one pack with one seed."""

    pack: str
    method: str
    seed: int

    @property
    def file(self) -> Path:
        return CELLS / f"{self.pack}-{self.method}-{self.seed}.json"


def main() -> None:
    """Fill the cells that are missing, then write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--packs", nargs="+", default=packs.names()[1:])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark"))
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for pack in arguments.packs:
            for method in arguments.methods:
                cell = Cell(pack, method, 0 if method in SEEDLESS else seed)
                if not cell.file.exists():
                    fill(cell, arguments.runs)
    write_table()


def fill(cell: Cell, runs: Path) -> None:
    """Measure one cell and write its file."""
    began = time.monotonic()
    training, test = train_and_test(packs.load(cell.pack))
    embeddings, trained = embed(cell, training, test, runs)
    result = retrieval(embeddings, test.label, bootstrap=1000)
    shown: dict[str, Any] = {
        "recall_at_1": result.recall_at_k[1],
        "recall_at_1_interval": result.intervals["recall_at_1"],
        "map_at_r": result.map_at_r,
        "map_at_r_interval": result.intervals["map_at_r"],
        "queries": result.n_queries,
        "test_classes": test.class_count(),
        "seconds": time.monotonic() - began,
        **trained,
        "threads": torch.get_num_threads(),
        "machine": machine(torch.device("cpu")),
        "torch": torch.__version__,
        "commit": commit(),
    }
    CELLS.mkdir(parents=True, exist_ok=True)
    write_atomically(cell.file, json.dumps(shown, indent=1) + "\n")
    print(f"{cell.pack} {cell.method} {cell.seed}: R@1 {100 * result.recall_at_k[1]:.1f}", flush=True)


def embed(cell: Cell, training: Table, test: Table, runs: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the embeddings of the test images, and what training cost."""
    if cell.method == "pixels":
        return pixel_embeddings(test), {}
    kind = "finetune" if cell.method in ("frozen", "finetune") else "scratch"
    overrides = [f"train.seed={cell.seed}", "train.validate_on=none"]
    config = Config.load(RECIPES / f"{cell.pack}-{kind}.toml", overrides)
    if cell.method in ("untrained", "frozen"):
        model = Embedder(**{**config.model.model_dump(), "pretrained": False})
        return before_training(config, model, training, test, lambda *_: None), {}
    folder = runs / cell.file.stem
    resume = (folder / "config.toml").exists()
    result = train(config, folder, resume=resume, command=f"benchmarks/packs.py {cell.file.stem}")
    embeddings = Embedder.load(folder / "model").encode(test).numpy()
    return embeddings, {"training_seconds": result.seconds, "epochs": config.train.epochs}


def read_cells() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the finished cells by pack and method, ordered by seed."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for pack in packs.names():
        for method in METHODS:
            files = sorted(CELLS.glob(f"{pack}-{method}-?.json"))
            if files:
                found.setdefault(pack, {})[method] = [json.loads(file.read_text()) for file in files]
    return found


def spread(cells: list[dict[str, Any]], metric: str) -> tuple[float, float, float]:
    """Return mean and 95 % interval in per cent: over seeds, or over test classes where there are none."""
    values = 100 * np.array([cell[metric] for cell in cells])
    if len(values) == 1:
        low, high = cells[0][f"{metric}_interval"]
        return float(values[0]), 100 * low, 100 * high
    half = STUDENT[len(values)] * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def write_table() -> None:
    """Write packs.md and packs.svg from the cells."""
    cells = read_cells()
    lines = [
        "# What is learned on each pack",
        "",
        "Test classes are never seen in training; each test image searches all others. Recall@1 and MAP@R in",
        "per cent: the mean over seeds with its 95 % Student interval, or, where nothing is drawn at random,",
        "the value with a 95 % bootstrap interval over the test classes. Nothing is selected: the last epoch",
        "counts.",
        "",
        "| pack | method | Recall@1 | MAP@R | seeds | training, s |",
        "|---|---|---|---|---|---|",
    ]
    for pack, methods in cells.items():
        for method, runs in methods.items():
            seconds = [run["training_seconds"] for run in runs if "training_seconds" in run]
            cost = f"{np.mean(seconds):.0f}" if seconds else "-"
            seeds = "-" if method in SEEDLESS else str(len(runs))
            figures = f"{shown(runs, 'recall_at_1')} | {shown(runs, 'map_at_r')}"
            lines.append(f"| {pack} | {METHODS[method]} | {figures} | {seeds} | {cost} |")
    run = next(iter(next(iter(cells.values())).values()))[0]
    trained = [
        run for methods in cells.values() for runs in methods.values() for run in runs if "epochs" in run
    ]
    threads = sorted({run["threads"] for run in trained})
    lines += [
        "",
        f"{run['machine']}; torch {run['torch']}; threads of a training: {', '.join(map(str, threads))}",
        "(with one, two trainings ran side by side, and other work beside them).",
        "Recipes: `recipes/PACK-scratch.toml`, `recipes/PACK-finetune.toml`.",
        "Made by `python benchmarks/packs.py`.",
        "",
        "![Recall@1 on each pack](packs.svg)",
    ]
    write_atomically(HERE / "results" / "packs.md", "\n".join(lines) + "\n")
    draw(cells)


def shown(runs: list[dict[str, Any]], metric: str) -> str:
    """Return "61.0 (60.2 to 61.8)"."""
    mean, low, high = spread(runs, metric)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def draw(cells: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """Draw Recall@1 of each method on each pack, with intervals."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    colours = {
        "pixels": "#cbd5e1",
        "untrained": "#94a3b8",
        "frozen": "#64748b",
        "scratch": "#d97706",
        "finetune": "#2463eb",
    }
    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["font.family"] = "sans-serif"
    figure, axes = plt.subplots(1, len(cells), figsize=(3.2 * len(cells), 3.4), sharey=True, squeeze=False)
    for axis, (pack, methods) in zip(axes[0], cells.items(), strict=True):
        for place, (method, runs) in enumerate(methods.items()):
            mean, low, high = spread(runs, "recall_at_1")
            axis.bar(place, mean, color=colours[method], width=0.8)
            axis.errorbar(place, mean, [[mean - low], [high - mean]], color="#1e293b", capsize=3, lw=1)
            axis.text(place, max(mean, high) + 1.5, f"{mean:.1f}", ha="center", fontsize=9)
        axis.set_title(pack, fontsize=11, loc="left")
        axis.set_xticks(
            range(len(methods)),
            [label for m, label in zip(METHODS, UNDER_BARS, strict=True) if m in methods],
            fontsize=8,
        )
        axis.set_ylim(0, 105)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("Recall@1 on unseen classes, %")
    figure.tight_layout()
    figure.savefig(HERE / "results" / "packs.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
