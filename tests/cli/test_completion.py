"""What the shell completes: names, keys, values and runs, without torch, through bash's split words too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nearfar
from nearfar.cli import completion
from nearfar.config import Config
from nearfar.data import samplers


def test_names_are_those_of_the_registries():
    import nearfar.offline

    for kind, registry in (("loss", nearfar.losses), ("mining", nearfar.mining), ("sampler", samplers)):
        found = completion.registered(kind)
        assert list(found) == registry.names()
        for name in found:
            assert list(found[name]) == list(registry.settings(name).parameters)


def test_keys_are_those_of_the_configuration():
    sections, known = Config().model_dump(), completion.keys()
    for section, keys in sections.items():
        for key in keys:
            assert f"{section}.{key}" in known
    assert "loss.beta" in known
    assert completion.settings("optimizer.clip") == ["optimizer.clip_norm=0.0"]
    assert completion.settings("train.se") == ["train.seed=1"]
    assert {"loss.beta=", "loss.base="} <= set(completion.settings("loss.b"))
    assert completion.settings("nonsense") == []


def test_values():
    assert completion.settings("loss.name=trip") == [
        "loss.name=triplet", "loss.name=triplet_softmax", "loss.name=triplet_weighted"
    ]  # fmt: skip
    assert "loss.mining=semi_hard" in completion.settings("loss.mining=")
    assert completion.settings("train.validate_on=") == [
        "train.validate_on=classes",
        "train.validate_on=none",
    ]
    assert completion.settings("data.skip_unreadable=t") == ["data.skip_unreadable=true"]
    assert "data.source=objects" in completion.settings("data.source=o")
    assert completion.pictures("loss.n") == []
    assert all(pair.startswith("data.root=") for pair in completion.pictures("data.ro"))


def test_runs_and_recipes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/one", "runs/two", "runs/none", "photos"):
        Path(name).mkdir(parents=True)
    for name in ("runs/one/config.toml", "runs/two/config.toml", "birds.toml", "birds.csv", "notes.txt"):
        Path(name).touch()
    assert completion.runs("") == ["runs/one", "runs/two"]
    assert completion.runs("runs/t") == ["runs/two"]
    assert completion.runs("ph") == ["photos" + os.sep]
    assert completion.recipes("b") == ["birds.csv", "birds.toml"]
    assert "objects" in completion.recipes("")
    assert completion.data("b") == ["birds.csv"]
    assert completion.paths("no/such/") == []


def complete(tmp_path: Path, words: list[str], place: int) -> list[str]:
    told = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(place), "_NEARFAR_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from nearfar.cli import main; sys.argv = ['nearfar']; main()"],
        env={**os.environ, **told}, capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["nearfar", "losses", "tripl"], {"triplet", "triplet_softmax", "triplet_weighted"}),
        (["nearfar", "mining", "semi"], {"semi_hard"}),
        (
            ["nearfar", "train", "objects", "loss.na"],
            {f"loss.name={name}" for name in nearfar.losses.names()},
        ),
        # bash cuts words at "=" and wants the last part alone
        (["nearfar", "train", "objects", "loss.name", "=", "supc"], {"supcon"}),
        (["nearfar", "train", "objects", "train.validate_on", "="], {"classes", "none"}),
        (["nearfar", "evaluate", "runs/"], {"runs/one"}),
        (["nearfar", "data", "furn"], {"furniture", "furniture-hard"}),
    ],
)
def test_bash(tmp_path, words, found):
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "config.toml").touch()
    assert set(complete(tmp_path, words, len(words) - 1)) == found


def test_completing_needs_no_torch():
    code = (
        "import sys\nfrom nearfar.cli import completion as c\n"
        "c.names('loss')(''), c.settings('loss.name='), c.settings('data.source='), c.recipes('')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
