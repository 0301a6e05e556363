"""Examples run, recipes load, and their headers say what a reader needs."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from nearfar.config import Config
from nearfar.data import packs

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


def test_own_loop_learns(capsys):
    runpy.run_path(str(ROOT / "examples" / "own_loop.py"))
    shown = capsys.readouterr().out
    before, after = (float(number) for number in re.findall(r"(?:before|after): ([\d.]+) %", shown))
    assert after > before + 5


def test_evaluate_vectors(capsys):
    runpy.run_path(str(ROOT / "examples" / "evaluate_vectors.py"))
    shown = capsys.readouterr().out
    assert "Recall@1" in shown
    assert "55 queries (5 with nothing relevant)" in shown


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["lightning", "accelerate"])
def test_a_loop_of_another_engine_on_two_ranks(engine: str) -> None:
    """It learns what one process learns. `pip install -e .[dev]` brings both engines."""
    script = str(ROOT / "examples" / f"{engine}_loop.py")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    shown = [_shown(arguments) for arguments in ([script], launch)]
    before, after = (float(number) for number in re.findall(r"(?:before|after): ([\d.]+) %", shown[0]))
    assert after > before
    assert _results(shown[0]) == _results(shown[1])


def _shown(arguments: list[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _results(shown: str) -> list[str]:
    return [line for line in shown.splitlines() if line.startswith("Recall@1")]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes(path):
    header = path.read_text().split("[data]")[0]
    for word in ("command:", "hardware:", "time and expected result:", f"nearfar train recipes/{path.name}"):
        assert word in header
    config = Config.load(path)
    assert config.data.source in packs.names()


def test_the_demo_needs_no_network():
    config = Config.load(ROOT / "src" / "nearfar" / "cli" / "demo.toml")
    assert config.data.source == "objects"
    assert config.model.pretrained is False
