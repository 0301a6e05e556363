"""What the documents show runs: their Python from top to bottom, their TOML as a configuration."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from nearfar.cli.app import run
from nearfar.config import Config
from nearfar.losses.parts.registry import registry
from nearfar.similarity import LogSumExp, softplus

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^(?:<!-- (?P<note>[^>]*) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)


def blocks(document: str, language: str) -> list[str]:
    """The blocks of a document in one language, less those that a comment says are not run."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = [match for match in BLOCK.finditer(text) if match["language"] == language]
    return [match["code"] for match in found if not (match["note"] or "").startswith("not run")]


def execute(document: str, names: dict[str, object]) -> dict[str, object]:
    """Run all Python of a document in one namespace; line numbers of errors are those of the blocks."""
    for number, code in enumerate(blocks(document, "python")):
        exec(compile(code, f"{document}, block {number}", "exec"), names)
    return names


@pytest.fixture
def own_losses(monkeypatch):
    """What is registered in a test is forgotten after it."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_functions", dict(registry._functions))


def test_adding_a_loss(own_losses, tmp_path, monkeypatch, capsys):
    execute("docs/adding-a-loss.md", {})
    assert "active" in capsys.readouterr().out
    (tmp_path / "photos").mkdir()
    for name in "abcd":
        (tmp_path / "photos" / name).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / "photos" / name / f"{i}.png")
    (toml,) = blocks("docs/adding-a-loss.md", "toml")
    (tmp_path / "birds.toml").write_text(toml)
    config = Config.load(tmp_path / "birds.toml", ["loss.margin=0.3"])
    assert config.loss.name == "balanced_contrastive"
    assert config.loss.settings == {"margin": 0.3}
    assert run(["losses", "balanced*"]) == 0
    assert "margin=0.3" in capsys.readouterr().out


def test_a_loss_of_ones_own_on_the_command_line(own_losses, tmp_path, monkeypatch, capsys):
    """The two files of the document, as files."""
    loss, *_ = blocks("docs/adding-a-loss.md", "python")
    (tmp_path / "my_losses.py").write_text(loss)
    (starter,) = [code for code in all_python("docs/adding-a-loss.md") if "import my_losses" in code]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["my_nearfar.py", "losses", "balanced_contrastive"])
    with pytest.raises(SystemExit) as end:
        exec(starter, {})
    sys.modules.pop("my_losses")
    assert end.value.code == 0
    assert "each kind by its mean" in capsys.readouterr().out


def test_from_caffe():
    names = execute("docs/from-caffe.md", {})
    assert list(names["tops"]) == ["unit", "loss", "asum"]


def test_samplers_and_mining(capsys):
    execute("docs/samplers-and-mining.md", {})
    assert "Triplets(easy=" in capsys.readouterr().out
    for name in nearfar.data.samplers.names():
        assert f"`{name}`" in (ROOT / "docs/samplers-and-mining.md").read_text(encoding="utf-8")


def test_scale():
    names = execute("docs/scale.md", {})
    assert names["value"].isfinite()
    assert len(names["memory"]) == 96


def all_python(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return [match["code"] for match in BLOCK.finditer(text) if match["language"] == "python"]


def test_readme(own_losses, tmp_path, monkeypatch, capsys):
    """Its names stand for two images of one class, a run, and embeddings of both."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    nearfar.Embedder(backbone="nearfar/small", pretrained=False, size=32).save("runs/photos")
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(name)
    names = {
        "embeddings": torch.randn(2, 8, requires_grad=True),
        "labels": torch.tensor([0, 0]),
        "register_loss": lambda function: function,  # the formula shown is registered already
        "softplus": softplus,
        "LogSumExp": LogSumExp,
    }
    shown = execute("README.md", names)["multi_similarity"]
    assert "Recall@1" in capsys.readouterr().out
    x, labels = torch.randn(12, 8), torch.arange(12) // 3
    value = shown(nearfar.Pairs.within(x, labels)).mean()
    torch.testing.assert_close(value, nearfar.losses.create("multi_similarity")(x, labels))


def test_readme_lists_every_loss_and_every_rule():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(\w+)`", text))
    assert set(nearfar.losses.names()) <= listed
    assert set(nearfar.mining.names()) <= listed
