"""What does a step against a memory of a million embeddings cost, in time and in memory?

A batch of 256 embeddings of 128 dimensions, four of each class, against a full memory of 1,000,000 from
10,000 classes: forward, backward and storing the batch, beside the CrossBatchMemory of
pytorch-metric-learning with the same loss, and beside the bare product of the batch with the memory. Each
cell is a fresh process; its memory is the peak of the resident set above what it was with the memory full.

    python benchmarks/memory.py                # writes benchmarks/results/memory.{json,md}
    python benchmarks/memory.py --threads 1    # writes memory-threads-1.{json,md} there
    python benchmarks/memory.py --size 20000 --rounds 2 --dry-run
"""

import argparse
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
PEER = "pytorch-metric-learning"
LOSSES: dict[str, dict[str, Any]] = {
    "contrastive": {"name": "contrastive", "reduction": "sum"},
    "multi_similarity": {"name": "multi_similarity", "mining": {"name": "multi_similarity", "epsilon": 0.1}},
    "supcon": {"name": "supcon", "temperature": 0.1},
    "triplet_hard": {"name": "triplet", "mining": "hard", "margin": 0.2},
}
WHO = ["product", "nearfar", "nearfar half", PEER]
Step = Callable[[Tensor, Tensor], Tensor | None]


def make(rows: int, options: argparse.Namespace, per_class: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows around the centres of their classes, near enough that mining finds something, and the classes."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(options.classes, options.dim, generator=generator) / options.dim**0.5
    generator.manual_seed(1000 + seed)
    labels = torch.randint(options.classes, (rows // per_class,), generator=generator)
    labels = labels.repeat_interleave(per_class)
    x = centres[labels] + torch.randn(rows, options.dim, generator=generator) / options.dim**0.5
    return torch.nn.functional.normalize(x, dim=1), labels


def build(who: str, loss: str, options: argparse.Namespace) -> Step:
    """Return a step with a full memory: forward, backward, storing."""
    if who == PEER:
        return build_peer(loss, options)
    import nearfar

    memory = nearfar.CrossBatchMemory(options.size, dtype=torch.float16 if who == "nearfar half" else None)
    fill(memory.add, options)
    function = nearfar.losses.create(**LOSSES[loss])

    def step(x: Tensor, labels: Tensor) -> Tensor:
        value = function(x, labels, memory=memory)
        value.backward()
        return value

    return step if who != "product" else build_product(memory.embeddings)


def build_product(stored: Tensor | None) -> Step:
    """Return the bare product, by strips in threads, with the fastest one that is accurate to float32."""
    from nearfar.similarity.threads import in_turn, plainly
    from nearfar.similarity.tiled.matmul import choose_product

    assert stored is not None
    product = choose_product(stored.shape[1], stored.device)

    strips = stored.split(4096)

    @plainly()
    def step(x: Tensor, labels: Tensor) -> None:  # noqa: ARG001, a step
        in_turn(lambda k: product(x.detach(), strips[k], None), [(k,) for k in range(len(strips))])

    return step


def build_peer(loss: str, options: argparse.Namespace) -> Step:
    """Return the same of pytorch-metric-learning."""
    from pytorch_metric_learning import distances, losses, miners, reducers

    cosine = distances.CosineSimilarity()
    function, miner = {
        "contrastive": lambda: (
            losses.ContrastiveLoss(1.0, 0.5, distance=cosine, reducer=reducers.SumReducer()),
            None,
        ),
        "multi_similarity": lambda: (
            losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5),
            miners.MultiSimilarityMiner(epsilon=0.1),
        ),
        "supcon": lambda: (losses.SupConLoss(temperature=0.1), None),
        "triplet_hard": lambda: (
            losses.TripletMarginLoss(margin=0.2, distance=cosine),
            miners.BatchHardMiner(distance=cosine),
        ),
    }[loss]()
    memory = losses.CrossBatchMemory(function, options.dim, memory_size=options.size, miner=miner)
    fill(lambda x, labels: memory.add_to_memory(x, labels, len(x)), options)

    def step(x: Tensor, labels: Tensor) -> Tensor:
        value = memory(x, labels)
        value.backward()
        return value

    return step


def fill(add: Callable[[Tensor, Tensor], None], options: argparse.Namespace) -> None:
    """Store as many rows as fit, a few at a time."""
    for start in range(0, options.size, 20_000):
        add(*make(min(20_000, options.size - start), options, seed=1 + start))


def run_one(who: str, loss: str, options: argparse.Namespace) -> dict[str, Any]:
    """Take ``rounds`` steps after one to warm up; return what each took."""
    if options.threads:
        torch.set_num_threads(options.threads)
    step = build(who, loss, options)
    batches = [make(options.batch, options, per_class=4, seed=-1 - k) for k in range(1 + options.rounds)]
    gc.collect()
    used = memory_field("VmSize", "self/status")
    limit = int((used + 0.7 * memory_field("MemAvailable", "meminfo")) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here
    resident = memory_field("VmRSS", "self/status")
    runs, began = [], time.perf_counter()
    for x, labels in batches:
        if len(runs) > 1 and time.perf_counter() - began > options.patience:
            break
        x.requires_grad_()
        start, busy = time.perf_counter(), time.process_time()
        value = step(x, labels)
        runs.append((time.perf_counter() - start, time.process_time() - busy))
    seconds, cpu = (float(np.median([run[k] for run in runs[1:]])) for k in (0, 1))
    return {
        "state": "ok",
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mib": memory_field("VmHWM", "self/status") - resident,
        "resident_mib": resident,
        "steps": len(runs) - 1,
        "value": None if value is None else float(value.detach()),
    }


def memory_field(name: str, file: str) -> float:
    """A field of a file in /proc in MiB."""
    lines = Path("/proc", file).read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def ask(who: str, loss: str) -> dict[str, Any]:
    """Run one cell in a process of its own, with the options of this one."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one", f"{who}/{loss}"]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode == 0:
        return json.loads(child.stdout.splitlines()[-1])
    last = (child.stderr.strip().splitlines() or [f"status {child.returncode}"])[-1]
    if child.returncode == -signal.SIGKILL or "alloc" in last or "MemoryError" in last:
        return {"state": "does not fit"}
    return {"state": f"fails: {last}"}


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    where, options = report["machine"], report["options"]
    packages = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    product = report["cells"]["product"]
    lines = [
        f"# A step against a memory of {options['size']:,} embeddings",
        "",
        f"Command: `{report['command']}`. A batch of {options['batch']} × {options['dim']}, four of each "
        f"class, against a full memory of {options['size']:,} × {options['dim']} from "
        f"{options['classes']:,} classes: forward, backward, storing the batch.",
        "",
        f"Machine: {where['name']}; load {where['load_before']} before the first run. {packages}. Commit: "
        f"{where['commit']}. Threads: {where['threads']}.",
        "",
        "The bare product of the batch with the memory, by the fastest float32 product found here: "
        f"{product['seconds']:.2f} s on the wall clock, {product['cpu_seconds']:.2f} s of processor time. A "
        "value with its gradient needs two, where every pair counts.",
        "",
        "| loss | | seconds | processor time, s | bare products | peak, MiB | resident before, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for loss in LOSSES:
        for who in WHO[1:]:
            cell = report["cells"][f"{who}/{loss}"]
            if cell["state"] != "ok":
                lines.append(f"| {loss} | {who} | {cell['state']} | | | | |")
                continue
            times = cell["cpu_seconds"] / product["cpu_seconds"]
            lines.append(
                f"| {loss} | {who} | {cell['seconds']:.2f} | {cell['cpu_seconds']:.2f} | {times:.1f} "
                f"| {cell['peak_mib']:,.0f} | {cell['resident_mib']:,.0f} |"
            )
    lines += [
        "",
        f"Each cell is a process of its own; median of up to {options['rounds']} steps after one to warm up. "
        "*Half*: stored as float16, computed in float32. *Bare products*: processor time over that of the "
        "product. *Peak*: the most that was resident during the steps, above what was before with the memory "
        "full and libraries loaded. A cell may take 70 % of the memory that is free.",
        "",
        f"Both compare the batch with the memory, but not quite the same pairs: {PEER} stores the batch "
        "first and compares with the memory alone, without gradient to the batch's own columns.",
        "",
    ]
    return "\n".join(lines)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=120, help="seconds after which no step is begun")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run every cell, write the result."""
    options = read_options()
    if options.one:
        print(json.dumps(run_one(*options.one.split("/"), options)))
        return
    from nearfar.train.environment import commit, machine, versions

    report: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/memory.py", *sys.argv[1:]]),
        "options": {key: value for key, value in vars(options).items() if key not in ("one", "dry_run")},
        "machine": {
            "name": machine(torch.device("cpu")),
            "versions": versions() | {PEER: version(PEER)},
            "commit": commit() or "not committed yet",
            "threads": options.threads or torch.get_num_threads(),
            "load_before": round(os.getloadavg()[0], 1),
        },
        "cells": {},
    }
    report["cells"]["product"] = ask("product", "supcon")
    for loss in LOSSES:
        for who in WHO[1:]:
            report["cells"][f"{who}/{loss}"] = cell = ask(who, loss)
            shown = {k: round(v, 2) if isinstance(v, float) else v for k, v in cell.items()}
            print(loss, who, shown, file=sys.stderr, flush=True)
    text = table(report)
    print(text)
    if not options.dry_run:
        RESULTS.mkdir(exist_ok=True)
        name = f"memory-threads-{options.threads}" if options.threads else "memory"
        (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
        (RESULTS / f"{name}.md").write_text(text)


if __name__ == "__main__":
    main()
