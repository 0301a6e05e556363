"""nearfar caffe import: a file is written, a table printed, a failure is one sentence."""

import json
from pathlib import Path

import pytest

from caffe_definitions import DATA, NETWORK, NPAIR, SOLVER, triplet
from nearfar.cli.app import run


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kites.prototxt").write_text(DATA + NETWORK + NPAIR)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    return tmp_path


def test_import_and_train(folder, capsys):
    assert run(["caffe", "import", "kites.prototxt", "solver.prototxt"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("found", "becomes", "differs", "npair_mined", "kites.toml"))
    settings = ["data.source=objects", "train.steps=2", "model.size=32", "train.precision=float32"]
    assert run(["train", "kites.toml", *settings, "--no-report", "--folder", "run"]) == 0
    assert (folder / "run" / "model" / "weights.safetensors").is_file()


def test_json(folder, capsys):
    assert run(["caffe", "import", "kites.prototxt", "-o", "other.toml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == "other.toml"
    assert {"found", "becomes", "differs"} == set(told["rows"][0])
    assert told["faults"] == []


def test_a_recipe_is_not_replaced_unasked(folder, capsys):
    (folder / "kites.toml").write_text("mine")
    assert run(["caffe", "import", "kites.prototxt"]) == 1
    assert "kites.toml is there already" in capsys.readouterr().err
    assert (folder / "kites.toml").read_text() == "mine"
    assert run(["caffe", "import", "kites.prototxt", "--overwrite"]) == 0
    assert (folder / "kites.toml").read_text() != "mine"


def test_a_fault_is_told(folder):
    (folder / "triplet.prototxt").write_text(triplet(second="a"))
    with pytest.warns(UserWarning, match="subtracts blob 'a' from itself"):
        assert run(["caffe", "import", "triplet.prototxt", "--debug"]) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nte.prototxt"], 1, "nte.prototxt: there is no such file"),
        (["solver.prototxt"], 1, "solver, not a net"),
        (["kites.prototxt", "kites.prototxt"], 1, "it is a net"),
        (["kites.prototxt", "-o", "no/such.toml"], 1, "no such folder"),
        (["weights.caffemodel"], 1, "binary file of weights"),
        (["renamed.prototxt"], 1, "not UTF-8"),
        (["."], 1, "cannot be read"),
        (["kites.prototxt", "-o", ".", "--overwrite"], 1, ". is a folder"),
        (["kites.prototxt", "-o", "kites.prototxt", "--overwrite"], 1, "is what is read"),
        (["kites.prototxt", "solver.prototxt", "-o", "solver.prototxt", "--overwrite"], 1, "is what is read"),
        (["data.prototxt"], 1, "data.prototxt: no loss of this net"),
        (["typo.prototxt"], 1, "this type is not known. Did you mean 'NPairMultiClassLoss'?"),
        ([], 2, "NET.prototxt"),
    ],
)
def test_failures_are_one_sentence(folder, capsys, arguments, status, words):
    for name in ("weights.caffemodel", "renamed.prototxt"):
        (folder / name).write_bytes(b"\n\xff\xfe\x00")
    (folder / "data.prototxt").write_text(DATA)
    (folder / "typo.prototxt").write_text(
        DATA + NETWORK + NPAIR.replace("NPairMultiClassLoss", "NPairMultClass")
    )
    assert run(["caffe", "import", *arguments]) == status
    shown = capsys.readouterr().err
    assert shown.count("nearfar: ") == 1
    assert words in shown
    assert "Traceback" not in shown
    assert not list(folder.glob("*.toml"))
    assert (folder / "kites.prototxt").read_text() == DATA + NETWORK + NPAIR
    assert (folder / "solver.prototxt").read_text() == SOLVER
