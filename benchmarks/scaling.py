"""Does a step of several processes cost what the formulas of docs/scale.md say?

nearfar/small-group-norm on pictures of 48 px, supcon, AdamW, a batch of N images over W processes under
DistributedDataParallel. Cost of an image and of a product are measured on few rows, the rest is reckoned.
Seconds are those of the processor (other work on the machine does not count), of the busiest process; memory
is what its peak adds to what it held before the first step. The formula for memory is of what is kept for the
backward pass, which takes up to as much again on its way.

    python benchmarks/scaling.py            # writes benchmarks/results/scaling.{json,md}
    python benchmarks/scaling.py --batches 256 --steps 1 --dry-run
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

import nearfar
from nearfar.data.samplers import own_part
from nearfar.train import two_pass
from nearfar.train.allocator import keep_freed_memory
from nearfar.train.environment import commit, machine, versions
from nearfar.train.precision import Numerics
from nearfar.train.trial import try_network

RESULTS = Path(__file__).parent / "results"
MIB = 2**20
SIDE, DIM, PER_CLASS, CHUNK = 48, 128, 8, 64
PASSES = 8  # operations of supcon for a pair and a dimension: two products forward, two back


def status(field: str) -> float:
    """A line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def rate() -> float:
    """Operations a second of a product of the loss's shape, on one core."""
    a, b = torch.randn(512, DIM), torch.randn(DIM, 512)
    best = float("inf")
    for _ in range(20):
        start = time.process_time()
        for _ in range(10):
            a @ b
        best = min(best, time.process_time() - start)
    return 10 * 2 * 512 * 512 * DIM / best


def of_network(embedder: nearfar.Embedder) -> tuple[float, float]:
    """Seconds of a chunk forward without a graph, and forward and back."""
    images, forward, both = torch.rand(CHUNK, 3, SIDE, SIDE), float("inf"), float("inf")
    for _ in range(8):
        start = time.process_time()
        with torch.no_grad():
            embedder(images)
        forward = min(forward, time.process_time() - start)
        start = time.process_time()
        embedder(images).sum().backward()
        both = min(both, time.process_time() - start)
    embedder.zero_grad(set_to_none=True)
    return forward, both


def work(own: int, size: int, batch: int, chunk: int, steps: int, folder: str) -> None:
    """Train some steps as one of several processes, and leave what it took and what it should take."""
    torch.set_num_threads(1)
    keep_freed_memory()
    store = torch.distributed.FileStore(f"{folder}/store", size)
    torch.distributed.init_process_group("gloo", store=store, rank=own, world_size=size)
    torch.manual_seed(0)
    embedder = nearfar.Embedder("nearfar/small-group-norm", pretrained=False, size=SIDE, dim=DIM)
    cost = try_network(embedder, torch.rand(CHUNK, 3, SIDE, SIDE), numerics=Numerics("float32", False, ""))
    (forward, both), speed = of_network(embedder.train()), rate()
    model = DistributedDataParallel(embedder) if size > 1 else embedder
    loss = nearfar.losses.create("supcon")
    optimizer = torch.optim.AdamW(model.parameters())
    rows = own_part(batch)
    images = torch.rand(rows.stop - rows.start, 3, SIDE, SIDE)
    labels = (torch.arange(batch) // PER_CLASS)[rows]
    before, seconds = status("VmRSS"), []
    for _ in range(steps + 1):
        torch.distributed.barrier()
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        two_pass(model, loss, images, labels, chunk)
        optimizer.step()
        seconds.append(time.process_time() - start)
    n, weights = len(images), sum(p.numel() for p in embedder.parameters())
    network = (both + (forward if 0 < chunk < n else 0)) * n / CHUNK
    found = {
        "seconds": median(seconds[1:]),
        "mib": status("VmHWM") - before,
        "formula_network": network,
        "formula_loss": PASSES * batch * n * DIM / speed,
        "formula_mib": (
            cost.activations / CHUNK * min(chunk or n, n)
            + 4 * weights * (4 if size > 1 else 3)
            + 8 * batch * DIM
        )
        / MIB,
    }
    Path(f"{folder}/{own}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def measure(size: int, batch: int, chunk: int, steps: int) -> dict[str, Any]:
    """One row of the table: the process that took longest."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (size, batch, chunk, steps, folder), nprocs=size)
        found = [json.loads(Path(f"{folder}/{k}.json").read_text()) for k in range(size)]
    slowest = max(found, key=lambda each: each["seconds"])
    return {"processes": size, "batch": batch, "chunk": chunk, **slowest}


def table(rows: list[dict[str, Any]]) -> str:
    """The results as a table."""
    lines = [
        "| images | processes | chunk | CPU s, formula | CPU s, measured | MiB, formula | MiB, measured |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        reckoned = row["formula_network"] + row["formula_loss"]
        lines.append(
            f"| {row['batch']:,} | {row['processes']} | {row['chunk'] or '-'} | {reckoned:.2f} "
            f"({row['formula_network']:.2f} + {row['formula_loss']:.2f}) | {row['seconds']:.2f} "
            f"| {row['formula_mib']:.0f} | {row['mib']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure all sizes and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    options = parser.parse_args()
    rows = []
    for batch in options.batches:
        for chunk in (0, CHUNK):
            if chunk == 0 and batch > 2048:  # more than this machine's memory
                continue
            rows += [measure(size, batch, chunk, options.steps) for size in options.processes]
            print(table(rows[-len(options.processes) :]).split("\n", 2)[2], flush=True)
    if options.dry_run:
        return
    facts = {"machine": machine(torch.device("cpu")), "versions": versions(), "commit": commit()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scaling.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    about = ", ".join(f"{key} {value}" for key, value in facts["versions"].items())
    text = f"# Scaling: formula and measurement\n\n{table(rows)}\n\n{facts['machine']}; {about}; "
    text += f"commit {facts['commit']}.\n"
    (RESULTS / "scaling.md").write_text(text)


if __name__ == "__main__":
    main()
