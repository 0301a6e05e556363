"""Gather or ring: what a loss across ranks costs, in time, memory and bytes, and if its gradient is right.

supcon on rows of 128 dimensions, eight of each class, dealt over processes on this machine (gloo, one thread
each). A step is the loss and its gradient by the embeddings. Beside nearfar's two ways to see the rows of
other ranks: the DistributedLossWrapper of pytorch-metric-learning around its SupConLoss, efficient=False
(each rank computes the whole loss) and True. Each run is a group of fresh processes; memory is the peak of a
rank's resident set above what it was before the first step, the largest of all ranks.

The error of the gradient is that of the weights of a linear network under DistributedDataParallel, beside one
process with the whole batch in float64, at 256 rows; also for a loss with proxies.

    python benchmarks/ranks.py            # writes benchmarks/results/ranks.{json,md}
    python benchmarks/ranks.py --rows 512 --rounds 1 --dry-run
"""

import argparse
import json
import os
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
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

RESULTS = Path(__file__).parent / "results"
PEER = "pytorch-metric-learning"
WHO = ["gather", "ring", PEER, f"{PEER} efficient"]
DIM, PER_CLASS, CHECKED = 128, 8, 256
Loss = Callable[[Tensor, Tensor], Tensor]


def rows(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Rows around the centres of their classes, mixed, so that a class lies on several ranks."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) // PER_CLASS
    labels = labels[torch.randperm(n, generator=generator)]
    centres = torch.randn(n // PER_CLASS + 1, DIM, generator=generator, dtype=dtype)
    return centres[labels] + torch.randn(n, DIM, generator=generator, dtype=dtype), labels


def build(who: str, kind: str) -> nn.Module:
    """The loss of one way, with pairs or with proxies."""
    if not who.startswith(PEER):
        import nearfar
        from nearfar.distributed import settings

        if who != "alone":
            settings.exchange = who
        if kind == "pairs":
            return nearfar.losses.create("supcon", temperature=0.1)
        return nearfar.losses.create("proxy_anchor", classes=CHECKED // PER_CLASS, dim=DIM)
    from pytorch_metric_learning import losses
    from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

    if kind == "pairs":
        return DistributedLossWrapper(losses.SupConLoss(temperature=0.1), efficient="efficient" in who)
    return DistributedLossWrapper(losses.ProxyAnchorLoss(CHECKED // PER_CLASS, DIM))


def field(name: str) -> float:
    """A line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def time_steps(options: argparse.Namespace, rank: int) -> dict[str, Any]:
    """Steps of one rank; the first warms up."""
    x, labels = rows(options.n)
    x, labels = x[rank :: options.world].clone(), labels[rank :: options.world].clone()
    loss = build(options.who, "pairs")
    small, few = x[:256].clone().requires_grad_(), labels[:256]
    loss(small, few).backward()  # what is loaded or made once
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here
    before, seconds = field("VmRSS"), []
    for _ in range(options.rounds):
        x.requires_grad_().grad = None
        dist.barrier()
        start = time.perf_counter()
        loss(x, labels).backward()
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    return {"seconds": median(seconds), "peak_mib": field("VmHWM") - before}


class Model(nn.Module):
    """A network with a loss inside."""

    def __init__(self, loss: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(DIM, DIM, bias=False)
        self.loss = loss
        for name, p in loss.named_parameters():  # the same in all libraries
            generator = torch.Generator().manual_seed(len(p))
            with torch.no_grad():
                p.copy_(torch.randn(p.shape, generator=generator))
            assert p.shape == (CHECKED // PER_CLASS, DIM), name
        self.to(dtype)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.loss(self.net(x), labels)


def check_gradient(options: argparse.Namespace, rank: int) -> dict[str, Any]:
    """The gradient of the weights, beside one process: of the network, and of the proxies."""
    x, labels = rows(CHECKED, torch.float64)
    found: dict[str, Any] = {}
    for kind in ("pairs", "proxies"):
        if kind == "proxies" and "efficient" in options.who:
            continue
        model = DistributedDataParallel(Model(build(options.who, kind), torch.float64))
        value = model(x[rank :: options.world], labels[rank :: options.world])
        value.backward()
        whole = Model(alone(options.who, kind), torch.float64)
        expected = whole(x, labels)
        expected.backward()
        found[f"{kind} value"] = float(value / expected)
        pairs = zip(model.module.parameters(), whole.parameters(), strict=True)
        for part, (p, q) in zip(("network", "proxies"), pairs, strict=False):
            assert p.grad is not None
            assert q.grad is not None
            cosine = torch.cosine_similarity(p.grad.flatten(), q.grad.flatten(), 0)
            found[f"{kind} {part}"] = {
                "error": float((p.grad - q.grad).norm() / q.grad.norm()),
                "ratio": float(p.grad.norm() / q.grad.norm()),
                "cosine": float(cosine),
            }
    return found


def alone(who: str, kind: str) -> nn.Module:
    """The same loss of one process."""
    if who.startswith(PEER):
        return build(who, kind).loss
    loss = build("alone", kind)
    loss.across_ranks = False
    return loss


def work(options: argparse.Namespace) -> None:
    """Be one rank."""
    torch.set_num_threads(1)
    folder = Path(options.folder)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=options.rank, world_size=options.world)
    task = time_steps if options.mode == "time" else check_gradient
    (folder / f"rank{options.rank}").write_text(json.dumps(task(options, options.rank)))
    dist.barrier()
    dist.destroy_process_group()


def run(mode: str, who: str, world: int, n: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure with a group of fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", __file__, "--mode", mode, "--who", who, "--n", str(n)]
        command += ["--world", str(world), "--folder", folder, "--rounds", str(options.rounds)]
        ranks = [
            subprocess.Popen(
                [*command, "--rank", str(rank)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        began = time.monotonic()
        try:
            ends = began + options.patience
            errors = [rank.communicate(timeout=max(1.0, ends - time.monotonic()))[1] for rank in ranks]
        except subprocess.TimeoutExpired:
            return {"state": f"more than {options.patience:.0f} s"}
        finally:
            for rank in ranks:
                rank.kill()
        if any(rank.returncode for rank in ranks):
            killed = any(rank.returncode == -9 for rank in ranks)
            return {"state": "out of memory" if killed else errors[0].strip().splitlines()[-1][:90]}
        parts = [json.loads((Path(folder) / f"rank{rank}").read_text()) for rank in range(world)]
    if mode == "time":
        return {key: max(part[key] for part in parts) for key in parts[0]} | {"state": "ok"}
    return parts[0] | {"state": "ok"}


def moved(who: str, n: int, world: int) -> float:
    """MiB that a rank sends in a step, rows and gradients of float32, by ideal collectives."""
    part = n / world * DIM * 4 / 2**20
    if who == "ring":  # the rows for positives, once for negatives, and both again with the gradient
        return part * (world - 1) * 4 + part * world * 2
    return part * (world - 1) * 2  # all-gather and reduce-scatter; the peer reduces all of it, as much again


def needed(who: str, n: int, world: int, options: argparse.Namespace) -> bool:
    """Whether a cell fits the machine by its arithmetic: the peer stores matrices of all pairs."""
    if not who.startswith(PEER):
        return True
    anchors = n / world if "efficient" in who else n
    return anchors * n * 4 * 7 * world / 2**30 <= options.matrices


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    where = report["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    lines = [
        "# Losses across ranks: gather or ring",
        "",
        f"Command: `{report['command']}`. supcon, {DIM} dimensions, {PER_CLASS} rows of each class, float32; "
        "gloo, one thread a rank.",
        "",
        f"Machine: {where['name']}, {where['cores']} cores for all ranks; load {where['load_before']} before "
        f"the first run. {packages}. Commit: {where['commit']}.",
        "",
        "| ranks | rows of all | | step, s | peak memory of a rank, MiB | sent by a rank, MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for cell in report["cells"]:
        start = f"| {cell['ranks']} | {cell['rows']:,} | {cell['who']} | "
        if cell["state"] == "ok":
            sent = f"{cell['sent_mib']:,.0f}" if cell["sent_mib"] is not None else "-"
            lines.append(start + f"{cell['seconds']:.2f} | {cell['peak_mib']:,.0f} | {sent} |")
        else:
            lines.append(start + f"{cell['state']} | - | - |")
    lines += [
        "",
        "A step is the loss of all ranks' rows and its gradient by the embeddings; medians of "
        f"{report['rounds']}. Memory: peak of the resident set above what it was before the steps. *Sent*: "
        "computed, for collectives that send no more than they must: gather moves rows once and gradients "
        "once; ring moves rows for positives and for negatives, and once more with the gradient of each.",
        "",
        f"Gradient of the weights under DistributedDataParallel beside one process, float64, {CHECKED} rows; "
        "*ratio* is |g| / |g₁|:",
        "",
        "| ranks | | loss | value / its own | gradient of | error | ratio | cosine |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in report["gradients"]:
        for key, found in cell.items():
            if isinstance(found, dict):
                kind, part = key.split()
                lines.append(
                    f"| {cell['ranks']} | {cell['who']} | {kind} | {cell[f'{kind} value']:.4f} | {part} | "
                    f"{found['error']:.1e} | {found['ratio']:.3f} | {found['cosine']:.4f} |"
                )
        if cell["state"] != "ok":
            lines.append(f"| {cell['ranks']} | {cell['who']} | | {cell['state']} | | | | |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Run all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[8192, 16384, 32768, 65536], help="of all ranks"
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds for one cell")
    parser.add_argument("--matrices", type=float, default=8.0, help="GiB that the peer's matrices may take")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    for name, kind in (
        ("mode", str),
        ("who", str),
        ("n", int),
        ("world", int),
        ("rank", int),
        ("folder", str),
    ):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode:
        work(options)
        return
    from nearfar.train.environment import commit, machine, versions

    report: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/ranks.py", *sys.argv[1:]]),
        "rounds": options.rounds,
        "machine": {
            "name": machine(torch.device("cpu")),
            "cores": os.cpu_count(),
            "versions": {**versions(), PEER: version(PEER)},
            "commit": commit() or "not committed yet",
            "load_before": round(os.getloadavg()[0], 1),
        },
        "cells": [],
        "gradients": [],
    }
    for world in options.ranks:
        for who in WHO:
            found = run("check", who, world, CHECKED, options)
            report["gradients"].append({"ranks": world, "who": who, **found})
            print(report["gradients"][-1], file=sys.stderr, flush=True)
        for n in options.rows:
            for who in WHO:
                found: dict[str, Any] = {"state": "its matrices do not fit"}
                if needed(who, n, world, options):
                    found = run("time", who, world, n, options)
                sent = None if who.startswith(PEER) else moved(who, n, world)
                report["cells"].append({"ranks": world, "rows": n, "who": who, "sent_mib": sent, **found})
                print(report["cells"][-1], file=sys.stderr, flush=True)
    text = table(report)
    print(text)
    if not options.dry_run:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "ranks.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "ranks.md").write_text(text)


if __name__ == "__main__":
    main()
