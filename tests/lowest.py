"""Print the lowest version of every dependency, as constraints of pip: what `make test-lowest` installs.

python tests/lowest.py core    the library alone, on the lowest torch
python tests/lowest.py         with all extras; torchvision names its torch itself
"""

import re
import sys
import tomllib
from pathlib import Path


def main(*wanted: str) -> None:
    """Print one line for each package that pyproject.toml names."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    for name, lowest in sorted({pair for line in named for pair in re.findall(r"^([\w-]+)>=([\d.]+)", line)}):
        if name != "torch" or "core" in wanted:
            print(f"{name}=={lowest}")


if __name__ == "__main__":
    main(*sys.argv[1:])
