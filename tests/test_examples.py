"""Examples run, recipes load, and their headers say what a reader needs."""

import re
import runpy
from pathlib import Path

import pytest

import example_ranks
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
    shown = [example_ranks.shown(ROOT / "examples" / f"{engine}_loop.py", ranks) for ranks in (1, 2)]
    before, after = (float(number) for number in re.findall(r"(?:before|after): ([\d.]+) %", shown[0]))
    assert after > before
    assert _results(shown[0]) == _results(shown[1])


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
