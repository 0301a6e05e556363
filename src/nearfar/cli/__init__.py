"""The command line: `nearfar demo`, `nearfar train birds.toml loss.beta=40`, and the rest.

Every command exits with 0, 1 (it failed) or 2 (it was asked wrongly) and says what went wrong in one
sentence; ``--debug`` shows the traceback.
"""

import os
import sys

from nearfar.errors import MissingExtra, require


def main() -> None:
    """Run the command line and exit."""
    try:
        for package in ("typer", "rich", "pydantic"):
            require(package, "train")
    except MissingExtra as missing:
        print(f"nearfar: {missing}", file=sys.stderr)
        sys.exit(1)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several:
        # When a process is lost, torch's own lines about its sockets would bury the one that says so.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from nearfar.cli.app import run

    code = run(sys.argv[1:])
    if several:
        # A thread of torch that asks for Python's lock while Python shuts down aborts what was done.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
