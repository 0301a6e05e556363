"""How fast is a call on a small batch, beside a peer and beside what a person writes by hand?

    python benchmarks/small.py                  # 16 to 1,024 rows, 128 and 512 dimensions, 1 and 2 threads
    python benchmarks/small.py --compiled       # the same through torch.compile, at fewer sizes
    python benchmarks/small.py -n 32 --dim 128 --threads 1 --loss supcon   # some of it, not written

Forward and backward of one batch of P x 4 rows. All take turns, call by call, in one process; the figure is
the median over the turns. Writes benchmarks/results/small.{json,md}.
"""

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import by_hand
import torch
from torch import Tensor

import nearfar

RESULTS = Path(__file__).parent / "results"
SIZES, DIMS, THREADS = (16, 32, 64, 128, 256, 512, 1024), (128, 512), (1, 2)
Step = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One loss as nearfar creates it and as a person writes it; ``proxies`` if it has vectors of classes."""

    name: str
    hand: by_hand.Formula
    mining: str | None = None
    proxies: bool = False


CASES = {
    "supcon": Case("supcon", by_hand.supcon),
    "ntxent": Case("ntxent", by_hand.ntxent),
    "contrastive": Case("contrastive", by_hand.contrastive),
    "multi_similarity, mined": Case("multi_similarity", by_hand.multi_similarity_mined, "multi_similarity"),
    "triplet, all": Case("triplet", by_hand.triplet_all),
    "triplet, hard": Case("triplet", by_hand.triplet_hard, "hard"),
    "triplet, semi_hard": Case("triplet", by_hand.triplet_semi_hard, "semi_hard"),
    "circle": Case("circle", by_hand.circle),
    "margin, distance_weighted": Case("margin", by_hand.margin_drawn, "distance_weighted"),
    "proxy_anchor": Case("proxy_anchor", by_hand.proxy_anchor, proxies=True),
    "arcface": Case("arcface", by_hand.arcface, proxies=True),
    "smooth_ap": Case("smooth_ap", by_hand.smooth_ap),
}


def peers(name: str, classes: int, dim: int, device: torch.device | str) -> Step:
    """Return the peer's loss of the same kind, with its own miner where it has one."""
    from pytorch_metric_learning import distances, losses, miners

    cosine = distances.CosineSimilarity()
    loss, miner = {
        "supcon": lambda: (losses.SupConLoss(0.1), None),
        "ntxent": lambda: (losses.NTXentLoss(0.1), None),
        "contrastive": lambda: (losses.ContrastiveLoss(1.0, 0.5, distance=cosine), None),
        "multi_similarity, mined": lambda: (
            losses.MultiSimilarityLoss(2, 50, 0.5),
            miners.MultiSimilarityMiner(0.1),
        ),
        "triplet, all": lambda: (losses.TripletMarginLoss(0.2, distance=cosine), None),
        "triplet, hard": lambda: (
            losses.TripletMarginLoss(0.2, distance=cosine),
            miners.BatchHardMiner(distance=cosine),
        ),
        "triplet, semi_hard": lambda: (
            losses.TripletMarginLoss(0.2, distance=cosine),
            miners.TripletMarginMiner(0.2, "semihard", distance=cosine),
        ),
        "circle": lambda: (losses.CircleLoss(0.4, 80), None),
        "margin, distance_weighted": lambda: (
            losses.MarginLoss(0.2, 0, 1.2, learn_beta=False),
            miners.DistanceWeightedMiner(),
        ),
        "proxy_anchor": lambda: (losses.ProxyAnchorLoss(classes, dim, 0.1, 32), None),
        "arcface": lambda: (losses.ArcFaceLoss(classes, dim, 28.6479, 64), None),
        "smooth_ap": lambda: (losses.SmoothAPLoss(0.01), None),
    }[name]()
    loss = loss.to(device)
    if miner is None:
        return loss
    return lambda x, y: loss(x, y, miner(x, y))


def rows(n: int, dim: int) -> tuple[Tensor, Tensor]:
    """Return classes of four rows that overlap, so that losses and miners have something to do."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(n // 4, dim, generator=generator)
    noise = 1.5 * torch.randn(n, dim, generator=generator)
    return centres.repeat_interleave(4, 0) + noise, torch.arange(n) // 4


def competitors(
    name: str, n: int, dim: int, compiled: bool, device: torch.device | str = "cpu"
) -> dict[str, Step]:
    """Return who is measured: each takes embeddings and labels."""
    case, classes = CASES[name], n // 4
    settings = {"classes": classes, "dim": dim} if case.proxies else {}
    loss = nearfar.losses.create(case.name, mining=case.mining, **settings).to(device)
    hand: Step = case.hand
    if case.proxies:
        proxies = torch.nn.Parameter(loss.proxies.detach().clone())

        def hand(x: Tensor, y: Tensor) -> Tensor:
            return case.hand(x, y, proxies)

    found: dict[str, Step] = {"nearfar": loss, "by hand": hand}
    if compiled:
        found["nearfar, compiled"] = torch.compile(loss)
        found["by hand, compiled"] = torch.compile(hand)
        return found
    try:
        found["PML"] = peers(name, classes, dim, device)
    except ImportError:
        print("pytorch-metric-learning is not there: measured without it", file=sys.stderr)
    return found


def once(step: Step, x: Tensor, y: Tensor) -> float:
    """Return the seconds of one forward and backward pass."""
    x = x.clone().requires_grad_()
    start = time.perf_counter()
    step(x, y).backward()
    return time.perf_counter() - start


def measure(name: str, n: int, dim: int, threads: int, seconds: float, compiled: bool) -> dict[str, float]:
    """Return the median of each competitor, in milliseconds."""
    torch.set_num_threads(threads)
    x, y = rows(n, dim)
    steps = competitors(name, n, dim, compiled)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = {who: min(once(step, x, y) for _ in range(3)) for who, step in steps.items()}
        turns = max(5, min(200, int(seconds / sum(first.values()))))
        times = {who: [] for who in steps}
        for _ in range(turns):
            for who, step in steps.items():
                times[who].append(once(step, x, y))
    return {who: 1e3 * statistics.median(each) for who, each in times.items()}


def main() -> None:
    """Measure, print, and write unless only a part was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, action="append", help="rows")
    parser.add_argument("--dim", type=int, action="append")
    parser.add_argument("--threads", type=int, action="append")
    parser.add_argument("--loss", action="append", choices=list(CASES))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each cell")
    parser.add_argument("--compiled", action="store_true", help="beside what torch.compile makes of both")
    options = parser.parse_args()
    sizes, dims = (128, 512) if options.compiled else SIZES, (128,) if options.compiled else DIMS
    cells = []
    for threads in options.threads or THREADS:
        for dim in options.dim or dims:
            for n in options.n or sizes:
                for name in options.loss or CASES:
                    found = measure(name, n, dim, threads, options.seconds, options.compiled)
                    cells.append({"loss": name, "n": n, "dim": dim, "threads": threads, "ms": found})
                    print(line(cells[-1]), flush=True)
    if not any((options.n, options.dim, options.threads, options.loss)):
        write(cells, "small-compiled" if options.compiled else "small")


def line(cell: dict) -> str:
    """Return a cell in one line: times, and ratios to nearfar."""
    own = cell["ms"]["nearfar"]
    others = [f"{who} {ms:.2f} ({ms / own:.2f})" for who, ms in cell["ms"].items() if who != "nearfar"]
    where = f"{cell['threads']} threads, d {cell['dim']:3}, n {cell['n']:4}"
    return f"{where}  {cell['loss']:26} nearfar {own:.2f} ms  " + "  ".join(others)


def write(cells: list[dict], name: str) -> None:
    """Write what was measured as JSON and as a table."""
    RESULTS.mkdir(exist_ok=True)
    about = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "nearfar": nearfar.__version__,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps({"about": about, "cells": cells}, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(table(cells, about))


def table(cells: list[dict], about: dict[str, str]) -> str:
    """Return all cells, a table for each number of threads and dimensions."""
    words = [f"torch {about['torch']}, Python {about['python']}, nearfar {about['nearfar']}."]
    words.append("Milliseconds of one forward and backward pass, medians of calls that took turns.")
    for threads in dict.fromkeys(cell["threads"] for cell in cells):
        for dim in dict.fromkeys(cell["dim"] for cell in cells):
            some = [cell for cell in cells if (cell["threads"], cell["dim"]) == (threads, dim)]
            who = list(some[0]["ms"])
            words.append(f"\n## {dim} dimensions, threads: {threads}\n")
            words.append("| loss | n | " + " | ".join(who) + " |")
            words.append("|---|---|" + "---|" * len(who))
            words += [
                f"| {cell['loss']} | {cell['n']} | " + " | ".join(f"{cell['ms'][w]:.2f}" for w in who) + " |"
                for cell in some
            ]
    ratios = {who: [] for who in cells[0]["ms"] if who != "nearfar"}
    for cell in cells:
        for who, each in ratios.items():
            if cell["n"] <= 512:
                each.append(cell["ms"][who] / cell["ms"]["nearfar"])
    words.append("\n## How many times nearfar's time the others take, up to 512 rows\n")
    words.append("| | least | median | most |\n|---|---|---|---|")
    words += [
        f"| {who} | {min(each):.2f} | {statistics.median(each):.2f} | {max(each):.2f} |"
        for who, each in ratios.items()
    ]
    return "\n".join(words) + "\n"


if __name__ == "__main__":
    main()
