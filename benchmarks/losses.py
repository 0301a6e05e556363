"""How fast are the losses, and how much memory do they take, beside a peer and beside bare products?

    python benchmarks/losses.py           # 1,024 and 4,096 rows: writes benchmarks/results/losses-small.*
    python benchmarks/losses.py --full    # up to 131,072 rows, half an hour: losses.{json,md,png}
    python benchmarks/losses.py --busy    # beside a process that keeps a core busy: losses-busy.{json,md}

The measuring itself is in ``nearfar.bench``; ``nearfar bench losses --help`` has every option.
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from nearfar.bench import Plan, measure, measure_busy, write, write_busy, write_json

RESULTS = Path(__file__).parent / "results"


def tell(done: int, total: int) -> None:
    """Say how far it is."""
    print(f"{done}/{total}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="all sizes")
    parser.add_argument("--busy", action="store_true", help="beside a busy process")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    command = " ".join(["python", "benchmarks/losses.py", *sys.argv[1:]])
    plans = [Plan(repeats=options.repeats)]
    if options.full:
        plans = [
            Plan(n=(1024, 4096, 16_384, 32_768), repeats=options.repeats, patience=45),
            Plan(n=(131_072,), dims=(128,), repeats=1, patience=1),
        ]
    RESULTS.mkdir(exist_ok=True)
    if options.busy:
        files = write_busy(measure_busy(plans[0], command=command, progress=tell), RESULTS)
    else:
        name = "losses" if options.full else "losses-small"
        save = partial(write_json, folder=RESULTS, name=name)
        first, *others = (measure(plan, command=command, progress=tell, save=save) for plan in plans)
        cells = [cell for report in (first, *others) for cell in report.cells]
        sizes = tuple(n for plan in plans for n in plan.n)
        files = write(replace(first, plan=replace(plans[0], n=sizes), cells=cells), RESULTS, name)
    print(files[1].read_text())


if __name__ == "__main__":
    main()
