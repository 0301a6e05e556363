"""The command line: `nearfar demo`, `nearfar train birds.toml loss.beta=40`, and the rest.

Every command exits with 0, 1 (it failed) or 2 (it was asked wrongly) and says what went wrong in one
sentence; ``--debug`` shows the traceback.
"""

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
    from nearfar.cli.app import run

    sys.exit(run(sys.argv[1:]))
