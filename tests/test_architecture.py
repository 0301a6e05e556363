"""The shape of the package: imports point one way, importing is light, public names are pinned."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nearfar

SOURCE = Path(nearfar.__file__).parent

# Lower layers first. A module may import from its own layer and from those below it.
LAYERS = [
    ["elsewhere"],
    ["errors", "files", "checksum", "missing", "numbers", "printable", "toml", "registered", "distributed"],
    ["similarity"],
    ["inputs"],
    ["kept"],
    ["pairs"],
    ["memory", "unseen"],
    ["mining"],
    ["losses"],
    ["criterion"],
    ["data"],
    ["models"],
    ["evaluate"],
    ["offline"],
    ["config"],
    ["caffe"],
    ["train"],
    ["report"],
    ["bench"],
    ["cli", "doctor", "__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    """Top-level parts of nearfar that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nearfar."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "nearfar":
            found |= {alias.name for alias in node.names if alias.name in LEVEL}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("nearfar.")}
    return found


FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    wrong = {other for other in imports(path) if LEVEL[other] > LEVEL[own]}
    assert not wrong, f"{own} must not import {wrong}"


def test_only_distributed_talks_to_torch_distributed():
    users = {p.relative_to(SOURCE).as_posix() for p in FILES if "import torch.distributed" in p.read_text()}
    assert {user.split("/")[0] for user in users} <= {"distributed"}


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize(
    "code", ["import nearfar", "import nearfar.cli", "import nearfar.config, nearfar.data.table"]
)
def test_importing_does_not_import_torch(code):
    assert run(f"import sys; {code}; print('torch' in sys.modules)") == "False"


def test_losses_need_only_the_core_dependencies():
    extras = "{'torchvision', 'timm', 'PIL', 'pydantic', 'typer', 'rich', 'matplotlib', 'jinja2', 'sklearn', 'pyarrow'}"
    code = f"import sys, nearfar; nearfar.losses.create('triplet'); nearfar.evaluate.retrieval; print(sorted({extras} & set(sys.modules)))"
    assert run(code) == "[]"


def test_public_names():
    assert nearfar.__all__ == [
        "CrossBatchMemory",
        "Embedder",
        "NearfarError",
        "Pairs",
        "Relevance",
        "data",
        "evaluate",
        "load",
        "losses",
        "mining",
        "models",
        "offline",
        "report",
        "train",
    ]
    for name in nearfar.__all__:
        assert getattr(nearfar, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lossess'"):
        _ = nearfar.lossess
