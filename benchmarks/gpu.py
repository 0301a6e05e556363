"""Is all of it right on a GPU, and how fast? One call checks and times everything there.

    python benchmarks/gpu.py                            # minutes; writes benchmarks/results/gpu.{json,md}
    python benchmarks/gpu.py --part errors --part waits -o FOLDER
    python benchmarks/gpu.py --device cpu --quick -o FOLDER     # tries the script where there is no GPU

The parts, each written as soon as it is done; what fails is a row that says so, and the rest goes on:

    errors      every loss in float32 on the device, value and gradient, beside float64 on the CPU
    times       forward and backward, beside pytorch-metric-learning and losses written by hand, and memory
    waits       which losses make the host wait for the device at a small batch
    graphs      a small batch captured as a CUDA graph, and replayed
    evaluation  retrieval of 100,000 vectors of 128 dimensions, each against all others
    training    one step of a small network with its loss, as it is and compiled
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from gpu_parts import PARTS, Asked

from nearfar.train.environment import environment

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, print each row, and write each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="instead of all")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each cell of a table")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of gpu.json and gpu.md")
    options = parser.parse_args()
    asked = Asked(torch.device(options.device), options.quick, 0.0 if options.quick else options.seconds)
    if asked.cuda and not torch.cuda.is_available():
        sys.exit("this machine has no CUDA device; --device cpu --quick tries the script without one.")
    warnings.simplefilter("ignore")
    report: dict[str, Any] = {
        "about": {**environment(asked.device), "command": " ".join(["python", *sys.argv])},
        "parts": {},
    }
    for name in options.part or PARTS:
        report["parts"][name] = rows = []
        for row in PARTS[name](asked):
            rows.append(row)
            print(name, *(f"{key} {shown(value)}" for key, value in row.items()), sep="  ", flush=True)
        write(report, options.output)


def write(report: dict[str, Any], folder: Path) -> None:
    """Write what there is so far as JSON and as tables."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    about = report["about"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    words = [f"# On a device: {about['machine']}\n", f"`{about['command']}`, {about['started']}. {versions}."]
    for name, rows in report["parts"].items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        words.append(f"\n## {name}\n\n{PARTS[name].__doc__}\n")
        words += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        words += ["| " + " | ".join(shown(row.get(key, "")) for key in columns) + " |" for row in rows]
    (folder / "gpu.md").write_text("\n".join(words) + "\n")


def shown(value: Any) -> str:
    """Return a value as a table has it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
