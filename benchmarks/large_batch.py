"""Does a batch of 16,384 images train a small network in 4 GiB, and what does it cost?

nearfar/small-group-norm on pictures of 48 px, 1,024 classes of 16, supcon, AdamW. In chunks (two passes)
beside one pass: of the same batch, without a limit, and of the largest batch that stays in 4 GiB. A step is
augmentation, both passes, loss and optimiser. Every run is a fresh process; memory is the peak of its whole
resident set, Python and torch included. The last run is `nearfar.train.train` itself on files.

    python benchmarks/large_batch.py            # writes benchmarks/results/large-batch.{json,md}
    python benchmarks/large_batch.py --classes 32 --steps 1 --chunks 64 --dry-run
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
MIB = 2**20
BACKBONE, SIDE, PER_CLASS = "nearfar/small-group-norm", 48, 16


def status(field: str) -> float:
    """A line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def available() -> float:
    """MiB that a process could take without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable:"))


def pictures(classes: int) -> tuple[Tensor, Tensor]:
    """Bytes and labels: a pattern of blocks for each class, moved and noisy in each image."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (classes, 3, 6, 6), generator=generator, dtype=torch.uint8)
    whole = blocks.repeat_interleave(SIDE // 6, 2).repeat_interleave(SIDE // 6, 3)
    labels = torch.arange(classes).repeat_interleave(PER_CLASS)
    images = torch.empty(len(labels), 3, SIDE, SIDE, dtype=torch.uint8)
    for row, label in enumerate(labels.tolist()):
        shift = torch.randint(SIDE // 2, (2,), generator=generator).tolist()
        noise = torch.randint(120, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        images[row] = whole[label].roll(shift, (1, 2)) // 2 + noise
    return images, labels


def run_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Some steps on one batch; the first has its gradient kept to compare with."""
    import nearfar
    from nearfar.data import Augment
    from nearfar.train import two_pass
    from nearfar.train.allocator import keep_freed_memory

    keep_freed_memory()  # as the loop does
    torch.manual_seed(0)
    images, labels = pictures(-(-options.rows // PER_CLASS))
    images, labels = images[: options.rows], labels[: options.rows]
    model = nearfar.Embedder(BACKBONE, pretrained=False, size=SIDE, dim=128)
    loss = nearfar.losses.create("supcon", temperature=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    augment = Augment(SIDE, brightness=0.2, contrast=0.2, saturation=0.2)
    found: dict[str, Any] = {"before_mib": status("VmRSS"), "seconds": [], "cpu_seconds": [], "losses": []}
    for step in range(options.steps):
        start, busy = time.perf_counter(), time.process_time()
        drawn = augment.draw(len(images), torch.Generator().manual_seed(step))
        optimizer.zero_grad(set_to_none=True)
        value = two_pass(model, loss, (images, drawn), labels, options.chunk, prepare=augment.apply)
        if step == 0:
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        optimizer.step()
        found["cpu_seconds"].append(time.process_time() - busy)
        found["seconds"].append(time.perf_counter() - start)
        found["losses"].append(value.item())
    found["peak_mib"] = status("VmHWM")
    torch.save(gradient, options.gradient)
    return found


def run_loop(options: argparse.Namespace) -> dict[str, Any]:
    """The training command on files: P x K batches of all training images."""
    from nearfar.config import Config
    from nearfar.train import read_log, train

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, labels = pictures(options.classes + 2)
        lines = ["path,label,split"]
        for row, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
            Image.fromarray(np.moveaxis(image, 0, 2)).save(folder / f"{row}.png", compress_level=1)
            lines.append(f"{row}.png,{label},{'train' if label < options.classes else 'test'}")
        (folder / "table.csv").write_text("\n".join(lines) + "\n")
        del images, labels
        wanted = [
            f"model.backbone={BACKBONE}",
            f"model.size={SIDE}",
            "loss.name=supcon",
            f"batch.classes_per_batch={options.classes}",
            f"batch.images_per_class={PER_CLASS}",
            f"batch.chunk={options.chunk}",
            "optimizer.warmup_epochs=0",
            f"train.steps={options.steps}",
            "train.precision=float32",
            "train.validate_on=none",
            "train.device=cpu",
        ]
        config = Config.load(str(folder / "table.csv"), wanted)
        before = status("VmRSS")
        start = time.perf_counter()
        train(config, folder / "run", progress=False)
        seconds = time.perf_counter() - start
        steps = [line for line in read_log(folder / "run" / "log.jsonl") if line["kind"] == "step"]
        return {
            "before_mib": before,
            "peak_mib": status("VmHWM"),
            "whole_seconds": seconds,
            "seconds": [options.classes * PER_CLASS / line["images_per_second"] for line in steps],
            "losses": [line["loss"] for line in steps],
        }


def child(options: argparse.Namespace, mode: str, rows: int, chunk: int, gradient: Path) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--mode", mode, "--rows", str(rows), "--chunk", str(chunk)]
    command += ["--classes", str(options.classes), "--steps", str(options.steps), "--gradient", str(gradient)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr or f"{command} ended with {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1]) | {"rows": rows, "chunk": chunk}
    print(mode, {key: value for key, value in found.items() if key != "losses"}, file=sys.stderr, flush=True)
    return found


def largest_one_pass(options: argparse.Namespace, gradient: Path) -> tuple[dict[str, Any], float]:
    """One pass with about the largest batch that stays in the limit; and what the whole batch would take."""
    limit = options.limit * 1024
    small, large = options.classes * PER_CLASS // 16, options.classes * PER_CLASS // 8
    peaks = [child(options, "steps", rows, 0, gradient)["peak_mib"] for rows in (small, large)]
    slope = (peaks[1] - peaks[0]) / (large - small)
    rows = min(int((limit - peaks[0]) / slope) + small, options.classes * PER_CLASS)
    while True:
        rows -= rows % PER_CLASS
        if rows <= 0:
            raise SystemExit(f"{options.limit} GiB are less than Python and torch take; give more.")
        found = child(options, "steps", rows, 0, gradient)
        if found["peak_mib"] <= limit:
            return found, found["peak_mib"] + slope * (options.classes * PER_CLASS - rows)
        slope = (found["peak_mib"] - peaks[1]) / (rows - large)
        rows -= max(PER_CLASS, int((found["peak_mib"] - limit) / slope))


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    where, limit = report["machine"], report["limit_gib"]
    packages = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    lines = [
        "# Large batches on a small device",
        "",
        f"Command: `{report['command']}`. {BACKBONE} ({report['weights']:,} weights), images of {SIDE} px, "
        f"{report['classes']:,} classes of {PER_CLASS}, supcon, AdamW, float32.",
        "",
        f"Machine: {where['name']}, {where['threads']} threads; load {where['load_before']} before the first "
        f"run. {packages}. Commit: {where['commit']}.",
        "",
        "| | batch | peak memory, MiB | of it above start | step, s | processor time, s | images/s | loss, "
        "first and last step | gradient beside one pass |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, run in report["runs"].items():
        seconds = median(run["seconds"])
        busy = f"{median(run['cpu_seconds']):.2f}" if "cpu_seconds" in run else "-"
        apart = f"{run['apart']:.1e}" if "apart" in run else "-"
        peak, first, last = run["peak_mib"], run["losses"][0], run["losses"][-1]
        lines.append(
            f"| {name} | {run['rows']:,} | {peak:,.0f} | {peak - run['before_mib']:,.0f} | {seconds:.2f} | "
            f"{busy} | {run['rows'] / seconds:,.0f} | {first:.4f}, {last:.4f} | {apart} |"
        )
    lines += [
        "",
        f"By the slope of smaller batches, one pass of {report['classes'] * PER_CLASS:,} images needs some "
        f"{report['one_pass_needs_mib']:,.0f} MiB.",
        "",
        f"Medians of {report['steps']} steps; a step is augmentation, network, loss, gradient and optimiser. "
        "Memory: the most that is resident in a fresh process, Python and torch included; what the process "
        f"had at the start is the libraries and the images as bytes. The limit asked for is {limit:g} GiB. "
        "*Gradient beside one pass*: |g - g₁| / |g₁| of the first step, g₁ in one pass of the same batch. "
        "*nearfar train*: the whole command on files; its step has the checks and the log in it.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=1024, help=f"of {PER_CLASS} images each")
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--limit", type=float, default=4.0, help="GiB")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    for name, kind in (("--mode", str), ("--rows", int), ("--chunk", int), ("--gradient", Path)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode:
        print(json.dumps(run_steps(options) if options.mode == "steps" else run_loop(options)))
        return
    import nearfar
    from nearfar.train.environment import commit, machine, versions

    rows = options.classes * PER_CLASS
    report: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/large_batch.py", *sys.argv[1:]]),
        "classes": options.classes,
        "steps": options.steps,
        "limit_gib": options.limit,
        "weights": sum(p.numel() for p in nearfar.Embedder(BACKBONE, pretrained=False, dim=128).parameters()),
        "machine": {
            "name": machine(torch.device("cpu")),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "commit": commit() or "not committed yet",
            "load_before": round(os.getloadavg()[0], 1),
        },
    }
    with tempfile.TemporaryDirectory() as name:
        kept = Path(name) / "gradient.pt"
        limited, needed = largest_one_pass(options, kept)
        runs, expected = {}, None
        if needed < 0.9 * available():
            runs["one pass, without a limit"] = child(options, "steps", rows, 0, kept)
            expected = torch.load(kept)
        for chunk in options.chunks:
            runs[f"two passes, chunk {chunk:,}"] = run = child(options, "steps", rows, chunk, kept)
            if expected is not None:
                run["apart"] = float((torch.load(kept) - expected).norm() / expected.norm())
        runs[f"one pass in {options.limit:g} GiB"] = limited
        chunk = options.chunks[len(options.chunks) // 2]
        runs[f"nearfar train, chunk {chunk:,}"] = child(options, "loop", rows, chunk, kept)
    report["runs"], report["one_pass_needs_mib"] = runs, needed
    text = table(report)
    print(text)
    if not options.dry_run:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "large-batch.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "large-batch.md").write_text(text)


if __name__ == "__main__":
    main()
