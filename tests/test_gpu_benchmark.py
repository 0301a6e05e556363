"""benchmarks/gpu.py runs where there is no GPU, in each of its parts; what fails there is a row."""

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch

import nearfar

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def call(monkeypatch):
    """The script as it is called."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    def main(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["benchmarks/gpu.py", *arguments])
        with warnings.catch_warnings():
            gpu.main()

    return main


def written(folder: Path) -> dict:
    """What there is of each part, none of which failed."""
    report = json.loads((folder / "gpu.json").read_text())
    assert {"machine", "versions", "commit", "command"} <= report["about"].keys()
    parts = report["parts"]
    assert not [row for rows in parts.values() for row in rows if "failed" in row]
    assert (folder / "gpu.md").read_text().count("\n## ") == len(parts)
    return parts


def test_the_parts_asked_for_on_the_cpu(call, tmp_path):
    call("--device", "cpu", "--quick", "--part", "waits", "--part", "evaluation", "-o", str(tmp_path))
    assert [*written(tmp_path)] == ["waits", "evaluation"]


@pytest.mark.exhaustive
def test_every_part_on_the_cpu(call, tmp_path):
    call("--device", "cpu", "--quick", "-o", str(tmp_path))
    parts = written(tmp_path)
    assert [*parts] == ["errors", "times", "waits", "graphs", "evaluation", "training"]
    assert {row["loss"] for row in parts["errors"]} == {*nearfar.losses.names()}
    assert all(row["value"] < 1e-5 and row["gradient"] < 1e-4 for row in parts["errors"])
    assert {row["who"] for row in parts["times"]} == {"nearfar", "by hand", "PML"}
    assert "| supcon | 32 | tiled |" in (tmp_path / "gpu.md").read_text()


def test_what_fails_is_a_row(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_parts

    def break_down() -> dict:
        raise torch.OutOfMemoryError("no room\nmore")

    asked = gpu_parts.Asked(torch.device("cpu"), quick=True, seconds=0.0)
    assert gpu_parts.attempt({"n": 1}, break_down) == {"n": 1, "failed": "OutOfMemoryError: no room"}
    assert next(gpu_parts.waits(asked)) == {"loss": "adaface", "waits": "only a CUDA device tells"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(call):
    with pytest.raises(
        SystemExit, match="this machine has no CUDA device; --device cpu --quick tries the script"
    ):
        call()
