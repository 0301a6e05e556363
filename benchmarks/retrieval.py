"""How long does the evaluation of a set as large as Stanford Online Products take, and how much memory?

60,000 embeddings of 128 dimensions, about 11,300 classes of 2 to 12 images, leave one out, Recall@1 near
80 %: nearfar with all its metrics (full average precision, mINP, CMC curve; ties settled in float64) beside
the AccuracyCalculator of pytorch-metric-learning with faiss. Each run is a fresh process, the two take turns,
and memory is the peak of the resident set above what it was with the data and the library loaded.

    python benchmarks/retrieval.py                # writes benchmarks/results/retrieval.{json,md}
    python benchmarks/retrieval.py --threads 1    # writes retrieval-threads-1.{json,md} there
    python benchmarks/retrieval.py --rows 6000 --runs 1 --dry-run
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
# Share of classes with 2, 3, …, 12 images, so that the mean is that of Stanford Online Products, 5.3.
SHARES = np.array([0.28, 0.10, 0.09, 0.10, 0.09, 0.08, 0.07, 0.06, 0.05, 0.04, 0.04])
PML = ("precision_at_1", "r_precision", "mean_average_precision_at_r", "mean_reciprocal_rank")


def make(rows: int, dim: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit-length rows around a random centre for each class, in random order."""
    generator = np.random.default_rng(0)
    sizes = generator.choice(np.arange(2, 13), size=rows, p=SHARES / SHARES.sum())
    labels = np.repeat(np.arange(rows), sizes)[:rows]
    if labels[-1] != labels[-2]:  # cut in the middle: no class of one
        labels[-1] = labels[-2]
    generator.shuffle(labels)
    centres = generator.standard_normal((labels.max() + 1, dim), dtype=np.float32)
    embeddings = centres[labels] + noise * generator.standard_normal((rows, dim), dtype=np.float32)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), labels


def memory(field: str) -> float:
    """A line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def run_one(what: str, folder: Path) -> dict[str, Any]:
    """Evaluate once in this process."""
    embeddings = torch.from_numpy(np.load(folder / "embeddings.npy"))
    labels = torch.from_numpy(np.load(folder / "labels.npy"))
    if what == "nearfar":
        from nearfar.evaluate import retrieval

        def evaluate() -> dict[str, Any]:
            result = retrieval(embeddings, labels, ks=(1, 10, 100, 1000)).to_dict()
            return {name: value for name, value in result.items() if name != "cmc"}

    else:
        import faiss  # noqa: F401  the calculator would import it inside the measured time
        from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

        calculator = AccuracyCalculator(include=PML, k="max_bin_count")

        def evaluate() -> dict[str, Any]:
            return calculator.get_accuracy(embeddings, labels)

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here
    before = memory("VmRSS")
    start, busy = time.perf_counter(), time.process_time()
    values = evaluate()
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - busy,
        "peak_mib": memory("VmHWM") - before,
        "values": values,
    }


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    ours, theirs = report["runs"]["nearfar"], report["runs"]["pytorch-metric-learning"]

    def middle(runs: list[dict[str, Any]], name: str) -> float:
        return float(np.median([run[name] for run in runs]))

    where = report["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    lines = [
        "# Evaluation of 60,000 embeddings, leave one out",
        "",
        f"Command: `{report['command']}`. {report['data']}",
        "",
        f"Machine: {where['name']}, shared with other work (load "
        f"{where['load_before']} before the first run), so the ratios say more than the seconds. "
        f"{packages}. Commit: {where['commit']}.",
        "",
        "| | nearfar, all metrics | pytorch-metric-learning, 4 metrics | ratio |",
        "|---|---|---|---|",
    ]
    rows = [
        ("seconds", "wall clock, s", "{:.1f}"),
        ("cpu_seconds", "processor time, s", "{:.1f}"),
        ("peak_mib", "peak memory above the inputs, MiB", "{:,.0f}"),
    ]
    for name, title, form in rows:
        a, b = middle(ours, name), middle(theirs, name)
        lines.append(f"| {title} | {form.format(a)} | {form.format(b)} | {b / a:.1f} |")
    mine, other = ours[0]["values"], theirs[0]["values"]
    pairs = [
        ("Recall@1", mine["recall_at_k"]["1"], other["precision_at_1"]),
        ("R-precision", mine["r_precision"], other["r_precision"]),
        ("MAP@R", mine["map_at_r"], other["mean_average_precision_at_r"]),
        ("MRR", mine["mrr"], other["mean_reciprocal_rank"]),
    ]
    for title, a, b in pairs:
        lines.append(f"| {title} | {a:.6f} | {b:.6f} | |")
    at = mine["recall_at_k"]
    lines += [
        f"| mAP | {mine['map']:.6f} | not computed | |",
        f"| mINP | {mine['minp']:.6f} | not computed | |",
        f"| Recall@10, 100, 1000 | {at['10']:.4f}, {at['100']:.4f}, {at['1000']:.4f} | not computed | |",
        "",
        f"Median of {len(ours)} runs each, taking turns, each in a fresh process. Memory: peak of the "
        "resident set above what it was with embeddings, labels and library loaded. pytorch-metric-learning "
        "looks only at the first max_bin_count neighbours: a query whose first relevant image is behind them "
        "counts as 0 in its MRR, and full average precision and mINP would need k = 60,000: tables of 43 GB. "
        "Where other work keeps the cores busy, threads that wait for each other (faiss) lose more time than "
        "threads that do not, so look at the processor time with one thread too: `--threads 1`.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Make the data, run both in turns, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--noise", type=float, default=1.37)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as each library takes")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    parser.add_argument("--one", choices=["nearfar", "pytorch-metric-learning"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options.one, options.folder)))
        return
    from nearfar.train.environment import commit, machine, versions

    embeddings, labels = make(options.rows, options.dim, options.noise)
    sizes = np.bincount(labels)
    sizes = sizes[sizes > 0]
    report: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/retrieval.py", *sys.argv[1:]]),
        "data": f"{len(labels):,} rows of {options.dim} dimensions, {len(sizes):,} classes of {sizes.min()} "
        f"to {sizes.max()} (mean {sizes.mean():.1f}), noise {options.noise}.",
        "machine": {
            "name": machine(torch.device("cpu")),
            "versions": versions()
            | {name: version(name) for name in ("pytorch-metric-learning", "faiss-cpu")},
            "commit": commit() or "not committed yet",
            "load_before": round(os.getloadavg()[0], 1),
        },
        "runs": {"nearfar": [], "pytorch-metric-learning": []},
    }
    threads = {"OMP_NUM_THREADS": str(options.threads)} if options.threads else {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "embeddings.npy", embeddings)
        np.save(Path(folder) / "labels.npy", labels)
        del embeddings
        for _ in range(options.runs):
            for what, runs in report["runs"].items():
                child = [sys.executable, __file__, "--one", what, "--folder", folder]
                out = subprocess.run(
                    child, check=True, capture_output=True, text=True, env=os.environ | threads
                ).stdout
                runs.append(json.loads(out.splitlines()[-1]))
                numbers = {name: round(value, 1) for name, value in runs[-1].items() if name != "values"}
                print(what, numbers, file=sys.stderr, flush=True)
    text = table(report)
    print(text)
    if not options.dry_run:
        RESULTS.mkdir(exist_ok=True)
        name = f"retrieval-threads-{options.threads}" if options.threads else "retrieval"
        (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
        (RESULTS / f"{name}.md").write_text(text)


if __name__ == "__main__":
    main()
