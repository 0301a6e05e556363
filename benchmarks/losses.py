"""How fast are the losses, and how much memory do they take, beside a peer and beside bare products?

    python benchmarks/losses.py           # 1,024 and 4,096 rows: writes benchmarks/results/losses-small.*
    python benchmarks/losses.py --full    # up to 131,072 rows, for hours: losses.{json,md,png}
    python benchmarks/losses.py --busy    # beside a process that keeps a core busy: losses-busy.{json,md}

The measuring itself is in ``nearfar.bench``; ``nearfar bench losses --help`` has every option.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from nearfar.bench import FULL, Plan, measure, measure_busy, write, write_busy, write_json

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
    plan = Plan(n=FULL, repeats=options.repeats) if options.full else Plan(repeats=options.repeats)
    RESULTS.mkdir(exist_ok=True)
    if options.busy:
        files = write_busy(measure_busy(plan, command=command, progress=tell), RESULTS)
    else:
        name = "losses" if options.full else "losses-small"
        save = partial(write_json, folder=RESULTS, name=name)
        files = write(measure(plan, command=command, progress=tell, save=save), RESULTS, name)
    print(files[1].read_text())


if __name__ == "__main__":
    main()
