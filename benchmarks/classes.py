"""How long does a training step over a million classes take, and how much memory?

1,000,000 classes of 128 dimensions, a batch of 256: proxy_anchor and arcface with all classes, and with a
sampled share of them, beside the same losses of pytorch-metric-learning. A step is forward and backward, the
gradient of all proxies included; SGD is timed apart. Every run is a fresh process, the runs take turns, and
memory is the peak of the resident set above what it was with proxies and batch in place.

    python benchmarks/classes.py                # writes benchmarks/results/classes.{json,md}
    python benchmarks/classes.py --classes 20000 --runs 1 --dry-run
    python benchmarks/classes.py --ranks 1 2    # adds the classes shared out over processes to the same files
"""

import argparse
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results"
MIB = 2**20
PEER = "pytorch-metric-learning"
DOES_NOT_FIT = "does not fit"
RUNS = {
    "proxy_anchor, nearfar": ("proxy_anchor", "nearfar", 1.0),
    f"proxy_anchor, {PEER}": ("proxy_anchor", PEER, 1.0),
    "arcface, nearfar": ("arcface", "nearfar", 1.0),
    f"arcface, {PEER}": ("arcface", PEER, 1.0),
    "proxy_anchor, nearfar, 10 % of the classes": ("proxy_anchor", "nearfar", 0.1),
    "arcface, nearfar, 10 % of the classes": ("arcface", "nearfar", 0.1),
}
PRODUCTS = "the four products alone"


def status(field: str) -> float:
    """A line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def available() -> int:
    """Bytes that a process could take without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def build(loss: str, who: str, classes: int, dim: int, sample: float) -> tuple[nn.Module, nn.Parameter]:
    """Make a loss, and its proxies as they are kept."""
    if who == "nearfar":
        import nearfar

        made = nearfar.losses.create(loss, classes=classes, dim=dim, sample=sample)
        assert made.proxies is not None
        return made, made.proxies
    from math import degrees

    from pytorch_metric_learning import losses

    if loss == "proxy_anchor":
        theirs = losses.ProxyAnchorLoss(classes, dim)
        return theirs, theirs.proxies
    theirs = losses.ArcFaceLoss(classes, dim, margin=degrees(0.5))
    return theirs, theirs.W


def batch(classes: int, dim: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Proxies, and embeddings half way between their class's proxy and nowhere."""
    generator = torch.Generator().manual_seed(0)
    proxies = torch.randn(classes, dim, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    return proxies, proxies[labels] + torch.randn(rows, dim, generator=generator), labels


def timed(work: Callable[[], object], rounds: int) -> dict[str, list[float]]:
    """Seconds on the clock and of the processor, for each round."""
    times: dict[str, list[float]] = {"seconds": [], "cpu_seconds": []}
    for _ in range(rounds):
        start, busy = time.perf_counter(), time.process_time()
        work()
        times["cpu_seconds"].append(time.process_time() - busy)
        times["seconds"].append(time.perf_counter() - start)
    return times


def run_products(options: argparse.Namespace) -> dict[str, Any]:
    """Similarities twice, and both gradients: by the fastest product of this machine, a block at a time."""
    from nearfar.similarity.threads import in_turn, plainly
    from nearfar.similarity.tiled.matmul import choose_product

    product = choose_product(options.dim, torch.device("cpu"))
    w, x, _ = batch(options.classes, options.dim, options.rows)
    blocks = w.split(1024)

    def work(index: int) -> None:
        part = blocks[index]
        product(x, part, None)
        s = product(x, part, None)
        product(s, part.mT, None)
        product(s.mT, x.mT, None)

    def step() -> None:
        with plainly():
            in_turn(work, [(index,) for index in range(len(blocks))])

    step()
    return {"state": "ok", **timed(step, options.rounds)}


def run_one(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one side in this process."""
    if name == PRODUCTS:
        return run_products(options)
    loss, who, sample = RUNS[name]
    small, _ = build(loss, who, 64, options.dim, 1.0)  # what every process pays once: threads, kernels
    few = torch.randn(options.rows, options.dim, requires_grad=True)
    small(few, torch.arange(options.rows) % 64).backward()
    module, weights = build(loss, who, options.classes, options.dim, sample)
    proxies, x, labels = batch(options.classes, options.dim, options.rows)
    with torch.no_grad():
        weights.copy_(proxies if weights.shape == proxies.shape else proxies.T)
    del proxies
    gc.collect()
    x.requires_grad_()
    value = 0.0

    def step() -> None:
        nonlocal value
        x.grad = weights.grad = None
        result = module(x, labels)
        result.backward()
        value = result.item()

    limit = int(options.limit * 2**30) if options.limit else available() * 9 // 10
    used = int(status("VmSize") * MIB)
    resource.setrlimit(resource.RLIMIT_AS, (used + limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here
    before = status("VmRSS")
    try:
        step()
        peak, first = status("VmHWM") - before, value
        times = timed(step, options.rounds)
        optimizer = torch.optim.SGD([weights], lr=1e-3)
        times["sgd_seconds"] = timed(optimizer.step, options.rounds)["seconds"]
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(word in str(error) for word in ("alloc", "memory")):
            return {"state": DOES_NOT_FIT}
        raise
    return {"state": "ok", "peak_mib": peak, "value": first, **times}


def run_rank(rank: int, size: int, sample: float, options: argparse.Namespace, folder: str) -> None:
    """Measure arcface on one of ``size`` processes of one thread, which share classes and batch out."""
    import nearfar

    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store {size} {sample}", size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    torch.manual_seed(0)
    told = {"classes": options.classes, "dim": options.dim, "sample": sample, "sharded": True}
    loss = nearfar.losses.create("arcface", **told)
    assert loss.proxies is not None
    weights = loss.proxies
    _, x, labels = batch(options.classes, options.dim, options.rows)
    own = slice(options.rows * rank // size, options.rows * (rank + 1) // size)
    x, labels = x[own].clone().requires_grad_(), labels[own]
    gc.collect()

    def step() -> None:
        x.grad = weights.grad = None
        loss(x, labels).backward()

    torch.distributed.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here
    before = status("VmRSS")
    step()
    found = {"peak_mib": status("VmHWM") - before, "proxies_mib": weights.numel() * 4 / MIB}
    torch.distributed.barrier()
    Path(f"{folder}/{rank}").write_text(json.dumps(found | timed(step, options.rounds)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def run_ranks(options: argparse.Namespace) -> dict[str, Any]:
    """Measure each number of processes asked for, fresh ones each time; the largest over them counts."""
    report: dict[str, Any] = {"load_before": round(os.getloadavg()[0], 1), "rows": []}
    for size in options.ranks:
        for sample in (1.0, 0.1):
            with tempfile.TemporaryDirectory() as folder:
                torch.multiprocessing.spawn(run_rank, (size, sample, options, folder), nprocs=size)
                each = [json.loads(Path(f"{folder}/{rank}").read_text()) for rank in range(size)]
            row: dict[str, Any] = {"processes": size, "sample": sample}
            row |= {key: max(one[key] for one in each) for key in ("peak_mib", "proxies_mib")}
            row |= {key: max(median(one[key]) for one in each) for key in ("seconds", "cpu_seconds")}
            report["rows"].append(row)
    return report


def ranks_table(report: dict[str, Any]) -> list[str]:
    """What the processes have measured, as Markdown."""
    lines = [
        "## Classes shared out over processes",
        "",
        f"`{report['command']}`: arcface with `sharded=True`, {report['classes']:,} proxies of "
        f"{report['dim']} dimensions, a batch of {report['batch']} over all processes of one thread, gloo, "
        f"on the same machine at a load of {report['load_before']}. Commit: {report['commit']}.",
        "",
        "| processes | classes | step, s | processor time, s | proxies, MiB | peak memory, MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        cells = [
            row["processes"],
            f"{row['sample']:.0%}",
            f"{row['seconds']:.2f}",
            f"{row['cpu_seconds']:.2f}",
        ]
        cells += [f"{row['proxies_mib']:,.0f}", f"{row['peak_mib']:,.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "Of each the process that took most. Peak memory is above what the process held with its proxies and "
        "its part of the batch; their gradient is part of it. The processes share two cores with whatever "
        "else the machine does: processor time tells more than the clock.",
        "",
    ]
    return lines


def merged(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """All rounds of all runs as one."""
    fit = [run for run in runs if run["state"] == "ok"]
    if not fit:
        return runs[0]
    lists = [key for key, value in fit[0].items() if isinstance(value, list)]
    return {**fit[0], **{key: [value for run in fit for value in run[key]] for key in lists}}


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    where = report["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    gradient = report["classes"] * report["dim"] * 4 / MIB
    lines = [
        f"# A training step over {report['classes']:,} classes",
        "",
        f"Command: `{report['command']}`. {report['classes']:,} proxies of {report['dim']} dimensions, a "
        f"batch of {report['rows']}, float32.",
        "",
        f"Machine: {where['name']}, {where['threads']} threads; load {where['load_before']} before the first "
        f"run. {packages}. Commit: {where['commit']}.",
        "",
        "| | step, s | processor time, s | SGD, s | peak memory, MiB | less gradient, MiB | value |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, run in report["runs"].items():
        if run["state"] != "ok":
            lines.append(f"| {name} | {run['state']} | - | - | - | - | - |")
            continue
        times = [median(run[key]) for key in ("seconds", "cpu_seconds")]
        cells = [f"{name}", *(f"{value:.2f}" for value in times)]
        if "peak_mib" in run:
            cells += [f"{median(run['sgd_seconds']):.2f}", f"{run['peak_mib']:,.0f}"]
            cells += [f"{run['peak_mib'] - gradient:,.0f}", f"{run['value']:.6g}"]
        else:
            cells += ["-"] * 4
        lines.append(f"| {' | '.join(cells)} |")
    steps = len(report["runs"][PRODUCTS]["seconds"])
    lines += [
        "",
        f"Medians of {steps} steps. A step is forward and backward, with the gradient of every proxy; SGD is "
        "the optimiser's step over the proxies, without momentum. Memory: the most that is resident in a "
        "fresh process above what it was with proxies, batch and library in place; the gradient of the "
        f"proxies is {gradient:,.0f} MiB of it. The four products (similarities forward and again backward, "
        "both gradients) are what cannot be saved where nothing of the size of the comparisons is kept. "
        "*does not fit*: more than what this machine had free.",
        "",
    ]
    if "ranks" in report:
        lines += ranks_table(report["ranks"])
    return "\n".join(lines)


def child(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one side in a process of its own."""
    command = [sys.executable, __file__, "--one", name]
    for key in ("classes", "dim", "rows", "rounds", "limit"):
        command += [f"--{key}", str(getattr(options, key))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGKILL:  # the kernel took the memory back
        return {"state": DOES_NOT_FIT}
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run all in turns and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rows", type=int, default=256, help="of the batch")
    parser.add_argument("--rounds", type=int, default=5, help="steps in each run")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument(
        "--limit", type=float, default=0.0, help="GiB beside the proxies; 0: nine tenths of what is free"
    )
    parser.add_argument("--ranks", type=int, nargs="+", help="only this: classes shared out over processes")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options.one, options)))
        return
    from nearfar.train.environment import commit, machine, versions

    known = RESULTS / "classes.json"
    command = " ".join(["python", "benchmarks/classes.py", *sys.argv[1:]])
    if options.ranks:
        found = {"command": command, "commit": commit() or "not committed yet", "classes": options.classes}
        found |= {"dim": options.dim, "batch": options.rows, **run_ranks(options)}
        print("\n".join(ranks_table(found)))
        if not options.dry_run:
            report = {**json.loads(known.read_text()), "ranks": found}
            known.write_text(json.dumps(report, indent=1) + "\n")
            (RESULTS / "classes.md").write_text(table(report))
        return
    report: dict[str, Any] = {
        "command": command,
        "classes": options.classes,
        "dim": options.dim,
        "rows": options.rows,
        "machine": {
            "name": machine(torch.device("cpu")),
            "threads": torch.get_num_threads(),
            "versions": versions() | {PEER: version(PEER)},
            "commit": commit() or "not committed yet",
            "load_before": round(os.getloadavg()[0], 1),
        },
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*RUNS, PRODUCTS)}
    for _ in range(options.runs):
        for name, done in runs.items():
            if done and done[-1]["state"] == DOES_NOT_FIT:
                continue
            done.append(child(name, options))
            print(name, {k: v for k, v in done[-1].items() if k != "value"}, file=sys.stderr, flush=True)
    report["runs"] = {name: merged(done) for name, done in runs.items()}
    text = table(report)
    print(text)
    if not options.dry_run:
        RESULTS.mkdir(exist_ok=True)
        if known.exists() and "ranks" in (before := json.loads(known.read_text())):
            report["ranks"], text = before["ranks"], table({**report, "ranks": before["ranks"]})
        (RESULTS / "classes.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "classes.md").write_text(text)


if __name__ == "__main__":
    main()
