"""benchmarks/gpu.py runs where there is no GPU, in each of its parts; what fails there is a row."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nearfar

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_every_part_on_the_cpu(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--quick", "-o", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    report = json.loads((tmp_path / "gpu.json").read_text())
    parts = report["parts"]
    assert [*parts] == ["errors", "times", "waits", "graphs", "evaluation", "training"]
    assert {"machine", "versions", "commit", "command"} <= report["about"].keys()
    assert not [row for rows in parts.values() for row in rows if "failed" in row]
    assert {row["loss"] for row in parts["errors"]} == {*nearfar.losses.names()}
    assert all(row["value"] < 1e-5 and row["gradient"] < 1e-4 for row in parts["errors"])
    assert {row["who"] for row in parts["times"]} == {"nearfar", "by hand", "PML"}
    text = (tmp_path / "gpu.md").read_text()
    assert text.count("\n## ") == len(parts)
    assert "| supcon | 32 | tiled |" in text


def test_what_fails_is_a_row(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_parts

    def break_down() -> dict:
        raise torch.OutOfMemoryError("no room\nmore")

    asked = gpu_parts.Asked(torch.device("cpu"), quick=True, seconds=0.0)
    assert gpu_parts.attempt({"n": 1}, break_down) == {"n": 1, "failed": "OutOfMemoryError: no room"}
    assert next(gpu_parts.waits(asked)) == {"loss": "adaface", "waits": "only a CUDA device tells"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so():
    found = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py")], capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert (
        found.stderr
        == "this machine has no CUDA device; --device cpu --quick tries the script without one.\n"
    )
