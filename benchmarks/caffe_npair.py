"""What does streaming the Caffe N-pair layer cost and save, beside a plain N×N matrix with autograd?

Forward, all five tops, and backward of ``NPairMultiClassLoss`` in three settings. The plain version is
written here the way one would write it: the matrix, masks, a sort where a threshold needs one. Each figure
comes from a fresh process; memory is the peak of the resident set above what it was with libraries and inputs
in place.

    python benchmarks/caffe_npair.py    # writes benchmarks/results/caffe-npair.{json,md}
    python benchmarks/caffe_npair.py --rows 1024 --dry-run
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
WHO = ("streamed", "plain")
SETTINGS: dict[str, dict[str, Any]] = {
    "published": {
        "margin_diff": -0.05,
        "identsn": 0.0,
        "ap_mining_region": "GLOBAL",
        "ap_mining_method": "RELATIVE_HARD",
        "an_mining_method": "HARD",
    },
    "no mining": {},
    "hardest 30 %": {"diffsn": -0.3, "an_mining_method": "RELATIVE_HARD"},
}
DOES_NOT_FIT = "does not fit"


def make(rows: int, dim: int) -> tuple[Tensor, Tensor]:
    """Unit-length rows, two of each class around a random centre, as the layer's own batches are."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows // 2).repeat_interleave(2)
    centres = torch.randn(rows // 2, dim, generator=generator)
    x = centres[labels] + 1.5 * torch.randn(rows, dim, generator=generator)
    return torch.nn.functional.normalize(x, dim=1).requires_grad_(), labels


def plain(x: Tensor, labels: Tensor, name: str) -> Tensor:
    """The loss and the metrics with every similarity in memory."""
    s = x @ x.T
    own = torch.eye(len(x), dtype=torch.bool)
    same = (labels[:, None] == labels) & ~own
    other = labels[:, None] != labels
    fixed = s.detach()
    best = fixed.masked_fill(~same, -torch.inf).amax(1, keepdim=True)
    rivals = ((fixed >= best) & other).sum(1)
    _ = [(rivals < k).float().mean() for k in (1, 5, 10)], x.detach().abs().sum() / len(x)
    chosen = other
    if name == "published":
        same = same & (fixed <= fixed[same].max())
        least = fixed.masked_fill(~same, torch.inf).amin(1, keepdim=True)
        chosen = other & (fixed > least - 0.05)
    elif name == "hardest 30 %":
        ranked = fixed.masked_fill(~other, -torch.inf).sort(1, descending=True).values
        kept = (0.3 * other.sum(1)).ceil().long()
        chosen = other & (fixed >= ranked.gather(1, kept[:, None] - 1))
    positives = s.masked_fill(~same, -torch.inf).logsumexp(1)
    every = s.masked_fill(~(same | chosen), -torch.inf).logsumexp(1)
    return (every - positives).mean()


def streamed(x: Tensor, labels: Tensor, name: str) -> Tensor:
    """The layer."""
    from nearfar.caffe.layers import NPairMultiClassLoss

    return NPairMultiClassLoss(**SETTINGS[name])(x, labels)["loss"]


def memory(field: str) -> float:
    """A line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def run_one(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one setting at one size in this process."""
    work = {"streamed": streamed, "plain": plain}[options.one]
    if options.threads:
        torch.set_num_threads(options.threads)

    def step(x: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        value = work(x, labels, options.setting)
        return value.item(), torch.autograd.grad(value, x)[0]

    step(*make(64, 16))  # what every process pays once: threads, kernels
    x, labels = make(options.rows[0], options.dim)
    limit = int(memory("VmSize") + options.limit) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here
    before = memory("VmRSS")
    seconds, busy = [], []
    began = time.perf_counter()
    for done in range(options.repeats):
        if done and time.perf_counter() - began > options.patience:
            break
        start, used = time.perf_counter(), time.process_time()
        try:
            value, gradient = step(x, labels)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or any(word in str(error) for word in ("alloc", "memory")):
                return {"state": DOES_NOT_FIT}
            raise
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - used)
        if not done:
            peak = memory("VmHWM") - before
            torch.save(gradient, options.gradient)
        del gradient
    return {"state": "ok", "seconds": seconds, "cpu_seconds": busy, "peak_mib": peak, "value": value}


def ask(who: str, setting: str, rows: int, options: argparse.Namespace, gradient: Path) -> dict[str, Any]:
    """Measure in a fresh process."""
    from nearfar.bench.memory import MIB, free_bytes

    command = [sys.executable, __file__, "--one", who, "--setting", setting, "--rows", str(rows)]
    command += ["--dim", str(options.dim), "--repeats", str(options.repeats), "--gradient", str(gradient)]
    command += ["--threads", str(options.threads), "--patience", str(options.patience)]
    command += ["--limit", str(int(0.95 * free_bytes() / MIB))]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode == -signal.SIGKILL:  # the kernel took the memory back
        return {"state": DOES_NOT_FIT}
    if child.returncode:
        raise SystemExit(child.stderr)
    return json.loads(child.stdout.splitlines()[-1])


def compare(setting: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure both at one size, and how far apart their results are."""
    cell: dict[str, Any] = {"setting": setting, "rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        files = {who: Path(folder) / who for who in WHO}
        for who in WHO:
            cell[who] = ask(who, setting, rows, options, files[who])
            print(setting, rows, who, cell[who], file=sys.stderr, flush=True)
        if cell["plain"]["state"] == "ok":
            ours, theirs = (torch.load(files[who]) for who in WHO)
            cell["gradient_apart"] = float((ours - theirs).abs().max() / theirs.abs().max())
            value, expected = (cell[who]["value"] for who in WHO)
            cell["value_apart"] = abs(value - expected) / abs(expected)
    return cell


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    where = report["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    lines = [
        "# The Caffe N-pair layer: streamed, and with every similarity in memory",
        "",
        f"Command: `{report['command']}`. Forward with all five tops, and backward, of "
        f"`NPairMultiClassLoss` on unit-length float32 rows of {report['dim']} dimensions, two of a class. "
        "*Published*: the settings of the layer's usage (all positives; negatives above the least similar "
        "positive less 0.05); *no mining*: RAND, RAND; *hardest 30 %*: RELATIVE_HARD negatives, diffsn -0.3. "
        "Plain: the matrix, masks and a sort, with autograd (`plain` in the script).",
        "",
        f"Machine: {where['name']}, {where['memory_gib']:.0f} GiB; load {where['load_before']} before the "
        f"first run. {packages}. Commit: {where['commit']}. Threads: {where['threads']}.",
        "",
        "| setting | n | streamed, s | plain, s | times as fast "
        "| streamed, MiB | plain, MiB | times as small | value apart | gradient apart |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in report["cells"]:
        ours, theirs = cell["streamed"], cell["plain"]
        row = [cell["setting"], f"{cell['rows']:,}", f"{median(ours['seconds']):.3g}"]
        if theirs["state"] == "ok":
            row += [f"{median(theirs['seconds']):.3g}"]
            row += [f"{median(theirs['seconds']) / median(ours['seconds']):.2g}", f"{ours['peak_mib']:,.0f}"]
            row += [f"{theirs['peak_mib']:,.0f}", f"{theirs['peak_mib'] / ours['peak_mib']:.2g}"]
            row += [f"{cell['value_apart']:.0e}", f"{cell['gradient_apart']:.0e}"]
        else:
            row += [theirs["state"], "-", f"{ours['peak_mib']:,.0f}", theirs["state"], "-", "-", "-"]
        lines.append(f"| {' | '.join(row)} |")
    lines += [
        "",
        f"Median of up to {report['repeats']} rounds in one process. Memory: the peak of the first round "
        "above what was resident with libraries and inputs in place. Apart: value relative to itself, the "
        "gradient to its largest component. A pair within rounding of its threshold may be selected in one "
        "and not in the other.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure every setting at every size and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1024, 8192, 32_768])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patience", type=float, default=60, help="start no round after so many seconds")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    parser.add_argument("--one", choices=WHO, help=argparse.SUPPRESS)
    parser.add_argument("--setting", choices=list(SETTINGS), help=argparse.SUPPRESS)
    parser.add_argument("--gradient", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options)))
        return
    from nearfar.bench.memory import total_bytes
    from nearfar.train.environment import commit, machine, versions

    report: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/caffe_npair.py", *sys.argv[1:]]),
        "dim": options.dim,
        "repeats": options.repeats,
        "machine": {
            "name": machine(torch.device("cpu")),
            "memory_gib": total_bytes() / 2**30,
            "versions": versions(),
            "commit": commit() or "not committed yet",
            "load_before": round(os.getloadavg()[0], 1),
            "threads": options.threads or torch.get_num_threads(),
        },
        "cells": [],
    }
    for rows in options.rows:
        report["cells"] += [compare(setting, rows, options) for setting in SETTINGS]
    text = table(report)
    print(text)
    if not options.dry_run:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "caffe-npair.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "caffe-npair.md").write_text(text)


if __name__ == "__main__":
    main()
