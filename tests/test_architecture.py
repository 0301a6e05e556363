"""The shape of the package: imports point one way, importing is light, public names are pinned."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import nearfar

SOURCE = Path(nearfar.__file__).parent

# Lower layers first. A module may import from its own layer and from those below it.
LAYERS = [
    ["elsewhere", "callers", "once"],
    [
        "errors",
        "cache",
        "files",
        "checksum",
        "missing",
        "numbers",
        "printable",
        "toml",
        "registered",
        "distributed",
    ],
    ["similarity"],
    ["inputs"],
    ["kept"],
    ["positive_table"],
    ["named"],
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


FILES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path != SOURCE / "__init__.py"
}


def imports(path: Path) -> set[str]:
    """Files of nearfar that a file imports anywhere, in a function too, but not for types alone."""
    found, left = set(), [ast.parse(path.read_text())]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            left += node.orelse
            continue
        left += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else node.module for name in names}
    return found & FILES.keys()


@cache
def every_import() -> dict[str, set[str]]:
    """What each file imports; asked for by tests alone, for it takes seconds."""
    return {module: imports(path) for module, path in FILES.items()}


def part(module: str) -> str:
    return module.split(".")[1]


def test_imports_point_one_way():
    wrong = [
        f"{module} imports {other}"
        for module, others in every_import().items()
        for other in sorted(others)
        if LEVEL[part(other)] > LEVEL[part(module)]
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle():
    try:
        TopologicalSorter(every_import()).prepare()
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


def test_only_distributed_talks_to_torch_distributed():
    users = [module for module, path in FILES.items() if "import torch.distributed" in path.read_text()]
    assert {part(module) for module in users} == {"distributed"}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Each call of a function or a method in a file, with the last part of its name."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [(getattr(node.func, "attr", getattr(node.func, "id", "")), node) for node in nodes]


def test_nothing_is_unpickled():
    """`torch.load` reads weights only, NumPy reads no objects, and nothing else reads a pickle."""
    readers = []
    for module, path in FILES.items():
        for name, node in calls(path):
            told = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            where = f"{module}:{node.lineno}"
            owner = getattr(getattr(node.func, "value", None), "id", "")
            if (owner, name) == ("torch", "load"):
                assert told.get("weights_only") is True, where
                readers.append(where)
            assert not told.get("allow_pickle"), where
            assert name not in {"Unpickler", "read_pickle"}, where
            assert owner not in {"pickle", "cloudpickle", "dill", "joblib"}, where
    assert readers


def test_collectives_are_those_of_the_newest_torch():
    """None is called that torch 2.14 calls deprecated."""
    old = {"all_gather_into_tensor", "reduce_scatter_tensor", "_all_gather_base", "_reduce_scatter_base"}
    assert not [m for m, path in FILES.items() for name, _ in calls(path) if name in old]


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
