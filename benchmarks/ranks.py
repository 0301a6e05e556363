"""Gather or ring: what a loss across ranks costs, in time, memory and bytes, and if its gradient is right.

supcon, and multi_similarity with its mining, on rows of 128 dimensions, eight of each class, dealt over
processes on this machine (gloo, one thread each). A step is the loss and its gradient by the embeddings.
Beside nearfar's two ways to see the rows of other ranks: the wrappers of pytorch-metric-learning around its
own loss and miner, efficient=False (each rank computes the whole loss) and True. Each cell is a group of new
processes; memory is the peak of a rank's resident set above what it was before the first step, the largest of
all ranks. Bytes are what a rank hands to its collectives, times the ranks that they must reach.

The error of the gradient is that of the weights of a linear network under DistributedDataParallel, beside one
process with the whole batch in float64, at 256 rows; also for a loss with proxies.

Finished cells are kept in results/ranks.json as they come: the same command again goes on with those that are
missing, after --minutes or an interruption.

    python benchmarks/ranks.py            # writes benchmarks/results/ranks.{json,md}, in about eight minutes
    python benchmarks/ranks.py --again    # measures all anew
    python benchmarks/ranks.py --quick    # two small sizes, printed, nothing written
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

RESULTS = Path(__file__).parent / "results"
PEER = "pytorch-metric-learning"
WHO = ["gather", "ring", PEER, f"{PEER} efficient"]
DIM, PER_CLASS, CHECKED = 128, 8, 256
# Ranks, rows of all, rounds: the large ones take the longest, and noise is the least of them.
SIZES = [(2, 8192, 3), (2, 16384, 3), (4, 8192, 3), (4, 16384, 3), (2, 32768, 1), (2, 65536, 1)]
QUICK = [(2, 512, 1), (4, 512, 1)]
PAIRS = ["supcon", "multi_similarity"]
MATRICES = {"supcon": 7, "multi_similarity": 13}  # of all pairs, in float32, that the peer stores


def rows(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Rows around the centres of their classes, mixed, so that a class lies on several ranks."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) // PER_CLASS
    labels = labels[torch.randperm(n, generator=generator)]
    centres = torch.randn(n // PER_CLASS + 1, DIM, generator=generator, dtype=dtype)
    return centres[labels] + torch.randn(n, DIM, generator=generator, dtype=dtype), labels


class Peer(nn.Module):
    """The peer's loss and miner in their wrappers, or without."""

    def __init__(self, kind: str, efficient: bool, alone: bool) -> None:
        super().__init__()
        from pytorch_metric_learning import losses, miners
        from pytorch_metric_learning.utils import distributed

        made = {
            "supcon": lambda: losses.SupConLoss(temperature=0.1),
            "multi_similarity": losses.MultiSimilarityLoss,
            "proxies": lambda: losses.ProxyAnchorLoss(CHECKED // PER_CLASS, DIM),
        }[kind]()
        mined = miners.MultiSimilarityMiner() if kind == "multi_similarity" else None
        if not alone:
            made = distributed.DistributedLossWrapper(made, efficient=efficient)
            mined = mined and distributed.DistributedMinerWrapper(mined, efficient=efficient)
        self.loss, self.miner = made, mined

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        found = () if self.miner is None else (self.miner(x, labels),)
        return self.loss(x, labels, *found)


def build(who: str, kind: str, *, alone: bool = False) -> nn.Module:
    """The loss of one way, or the same loss of one process."""
    if who.startswith(PEER):
        return Peer(kind, "efficient" in who, alone)
    import nearfar
    from nearfar.distributed import settings
    from nearfar.distributed.settings import Exchange

    for exchange in get_args(Exchange):
        if exchange == who:
            settings.exchange = exchange
    told: dict[str, dict[str, Any]] = {
        "supcon": {"name": "supcon", "temperature": 0.1},
        "multi_similarity": {
            "name": "multi_similarity",
            "mining": {"name": "multi_similarity", "epsilon": 0.1},
        },
        "proxies": {"name": "proxy_anchor", "classes": CHECKED // PER_CLASS, "dim": DIM},
    }
    return nearfar.losses.create(**told[kind], across_ranks=not alone)


@contextmanager
def counted() -> Iterator[list[float]]:
    """Bytes that this rank sends within, by collectives that send no more than they must."""
    size, sent = dist.get_world_size(), [0.0]
    # What is sent, its place among the arguments, and how often.
    costs = {
        "all_gather": (1, size - 1),
        "all_gather_single": (1, size - 1),
        "reduce_scatter_single": (1, (size - 1) / size),
        "all_reduce": (0, 2 * (size - 1) / size),
        "broadcast": (0, 1 / size),
    }
    real: dict[str, Callable[..., Any]] = {
        name: getattr(dist, name) for name in (*costs, "batch_isend_irecv")
    }

    def spy(name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if name in costs:
                place, times = costs[name]
                sent[0] += given[place].numel() * given[place].element_size() * times
            else:
                out = [job.tensor for job in given[0] if job.op is dist.isend]
                sent[0] += sum(x.numel() * x.element_size() for x in out)
            return real[name](*given, **named)

        return call

    for name in real:
        setattr(dist, name, spy(name))
    try:
        yield sent
    finally:
        for name, function in real.items():
            setattr(dist, name, function)


def field(name: str) -> float:
    """A line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def time_steps(cell: dict[str, Any], rank: int) -> dict[str, Any]:
    """Steps of one rank."""
    x, labels = rows(cell["n"])
    x, labels = (part[rank :: cell["world"]].clone() for part in (x, labels))
    loss = build(cell["who"], cell["loss"])
    small, few = x[:256].clone().requires_grad_(), labels[:256]
    loss(small, few).backward()  # what is loaded or made once
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here
    before, seconds, mib = field("VmRSS"), [], 0.0
    for _ in range(cell["rounds"]):
        x.requires_grad_().grad = None
        dist.barrier()
        start = time.perf_counter()
        with counted() as sent:
            loss(x, labels).backward()
        mib = sent[0] / 2**20
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    return {"seconds": median(seconds), "peak_mib": field("VmHWM") - before, "sent_mib": mib}


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


def check_gradient(cell: dict[str, Any], rank: int) -> dict[str, Any]:
    """The gradient of the weights, beside one process: of the network, and of the proxies."""
    x, labels = rows(CHECKED, torch.float64)
    found: dict[str, Any] = {}
    for kind in (*PAIRS, "proxies"):
        if kind == "proxies" and "efficient" in cell["who"]:
            continue
        model = DistributedDataParallel(Model(build(cell["who"], kind), torch.float64))
        value = model(x[rank :: cell["world"]], labels[rank :: cell["world"]])
        value.backward()
        whole = Model(build(cell["who"], kind, alone=True), torch.float64)
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


def work(cell: dict[str, Any], rank: int, folder: Path) -> None:
    """Be one rank."""
    errors = (folder / f"errors{rank}").open("w")
    os.dup2(errors.fileno(), 1)
    os.dup2(errors.fileno(), 2)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=cell["world"])
    task = time_steps if cell["mode"] == "time" else check_gradient
    (folder / f"rank{rank}").write_text(json.dumps(task(cell, rank)))
    dist.barrier()
    dist.destroy_process_group()


def run(cell: dict[str, Any], patience: float) -> dict[str, Any]:
    """Measure with a group of new processes: forks of this one, which has imported all."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ranks = [fork.Process(target=work, args=(cell, rank, folder)) for rank in range(cell["world"])]
        for rank in ranks:
            rank.start()
        ends = time.monotonic() + patience
        try:
            while any(rank.is_alive() for rank in ranks) and not any(rank.exitcode for rank in ranks):
                if time.monotonic() > ends:
                    return {"state": f"more than {patience:.0f} s"}
                time.sleep(0.05)
            failed = [k for k, rank in enumerate(ranks) if rank.exitcode]
        finally:  # where one has failed, the others wait for it
            for rank in ranks:
                rank.kill()
                rank.join()
        if failed and all(ranks[k].exitcode == -9 for k in failed):
            return {"state": "killed: out of memory"}
        if failed:
            said = (folder / f"errors{failed[0]}").read_text().strip().splitlines()
            return {"state": (said or ["ended without a word"])[-1][:90]}
        parts = [json.loads((folder / f"rank{rank}").read_text()) for rank in range(len(ranks))]
    if cell["mode"] == "time":
        return {key: max(part[key] for part in parts) for key in parts[0]} | {"state": "ok"}
    return parts[0] | {"state": "ok"}


def cells(quick: bool) -> Iterator[dict[str, Any]]:
    """Everything that is measured, the small first."""
    sizes = QUICK if quick else SIZES
    for world in sorted({size[0] for size in sizes}):
        for who in WHO:
            yield {"mode": "check", "world": world, "who": who}
    for world, n, rounds in sizes:
        for loss in PAIRS:
            for who in WHO:
                yield {"mode": "time", "world": world, "n": n, "loss": loss, "who": who, "rounds": rounds}


def fits(cell: dict[str, Any], gib: float) -> bool:
    """Whether the matrices of the peer's ranks fit, by arithmetic."""
    if cell["mode"] != "time" or not cell["who"].startswith(PEER):
        return True
    n, world = cell["n"], cell["world"]
    anchors = n if "efficient" in cell["who"] else n * world  # over all ranks
    matrices = max(MATRICES[cell["loss"]], 13 if "efficient" in cell["who"] else 0)
    return anchors * n * 4 * matrices / 2**30 <= gib


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    where = report["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    lines = [
        "# Losses across ranks: gather or ring",
        "",
        f"Command: `{report['command']}`. {DIM} dimensions, {PER_CLASS} rows of each class, float32; "
        "multi_similarity with its mining; gloo, one thread a rank.",
        "",
        f"Machine: {where['name']}, {where['cores']} cores for all ranks; load {where['load_before']} before "
        f"the first run. {packages}. Commit: {where['commit']}.",
        "",
        "| ranks | rows of all | loss | | step, s | peak memory of a rank, MiB | sent by a rank, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in report["cells"]:
        if cell["mode"] != "time":
            continue
        start = f"| {cell['world']} | {cell['n']:,} | {cell['loss']} | {cell['who']} | "
        if cell["state"] == "ok":
            sizes = f"{cell['peak_mib']:,.0f} | {cell['sent_mib']:,.1f} |"
            lines.append(start + f"{cell['seconds']:.2f} | {sizes}")
        else:
            lines.append(start + f"{cell['state']} | - | - |")
    lines += [
        "",
        "A step is the loss of all ranks' rows and its gradient by the embeddings: the median of 3, one at "
        "32,768 rows and more. Memory: peak of the resident set above what it was before the steps. *Sent*: "
        "what is handed to collectives, times what each must send; the peer's gradients are those of the own "
        "rows alone and travel with the weights of the network, so it sends none here.",
        "",
        f"Gradient of the weights under DistributedDataParallel beside one process, float64, {CHECKED} rows; "
        "*ratio* is |g| / |g₁|:",
        "",
        "| ranks | | loss | value / its own | gradient of | error | ratio | cosine |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in report["cells"]:
        start = f"| {cell['world']} | {cell['who']} |"
        for key, found in cell.items():
            if isinstance(found, dict):
                kind, part = key.split()
                lines.append(
                    f"{start} {kind} | {cell[f'{kind} value']:.4f} | {part} | {found['error']:.1e} | "
                    f"{found['ratio']:.3f} | {found['cosine']:.4f} |"
                )
        if cell["mode"] == "check" and cell["state"] != "ok":
            lines.append(f"{start} | {cell['state']} | | | | |")
    return "\n".join([*lines, ""])


def begun(where: dict[str, Any], again: bool) -> list[dict[str, Any]]:
    """Cells that were finished by an earlier call, on this machine and with these versions."""
    file = RESULTS / "ranks.json"
    if again or not file.exists():
        return []
    before = json.loads(file.read_text())
    same = all(before["machine"].get(key) == where[key] for key in ("name", "versions", "commit"))
    return [cell for cell in before["cells"] if "mode" in cell] if same else []


def main() -> None:
    """Run all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes; print, write nothing")
    parser.add_argument("--again", action="store_true", help="measure finished cells too")
    parser.add_argument("--minutes", type=float, default=8.5, help="begin no cell after that")
    parser.add_argument("--patience", type=float, default=150.0, help="seconds for one cell")
    parser.add_argument("--matrices", type=float, default=8.0, help="GiB that the peer's matrices may take")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process that has started threads cannot be forked
    import pytorch_metric_learning.losses  # noqa: F401 (once, for all forks)

    import nearfar.losses  # noqa: F401
    from nearfar.train.environment import commit, machine, versions

    where = {
        "name": machine(torch.device("cpu")),
        "cores": os.cpu_count(),
        "versions": {**versions(), PEER: version(PEER)},
        "commit": commit() or "not committed yet",
        "load_before": round(os.getloadavg()[0], 1),
    }
    report: dict[str, Any] = {"command": "python benchmarks/ranks.py", "machine": where, "cells": []}
    known, ends, left = (
        begun(where, options.again or options.quick),
        time.monotonic() + 60 * options.minutes,
        0,
    )
    for cell in cells(options.quick):
        found = next((old for old in known if cell.items() <= old.items()), None)
        if found is None and not fits(cell, options.matrices):
            found = {**cell, "state": "its matrices do not fit"}
        if found is None and time.monotonic() > ends:
            left += 1
            continue
        if found is None:
            found = {**cell, **run(cell, options.patience)}
            print(found, file=sys.stderr, flush=True)
        report["cells"].append(found)
        if not options.quick:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / "ranks.json").write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))
    if not options.quick:
        (RESULTS / "ranks.md").write_text(table(report))
    if left:
        print(f"{left} cells are left; the same command goes on with them.", file=sys.stderr)


if __name__ == "__main__":
    main()
