"""`nearfar bench losses`: what it measures, what it writes, what it refuses."""

import json
import sys

import pytest
import torch

import nearfar.bench.losses
from nearfar.bench import Plan, markdown, measure, terminal_rows, write
from nearfar.bench.busy import fair_share
from nearfar.bench.clock import take_turns
from nearfar.bench.losses import PEER
from nearfar.bench.memory import DOES_NOT_FIT, Peak, Question, can_measure, peak
from nearfar.bench.problems import PROBLEMS, build, make, step
from nearfar.bench.products import products
from nearfar.cli.app import run

needs_proc = pytest.mark.skipif(not can_measure(), reason="this system does not tell the peak of a process")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that the command has written, for one loss at one tiny size."""
    folder = tmp_path_factory.mktemp("bench")
    asked = ["--loss", "supcon", "--n", "64", "--dim", "8", "--repeats", "2", "-o", str(folder)]
    assert run(["bench", "losses", *asked]) == 0
    return folder


@pytest.fixture
def no_processes(monkeypatch):
    """Memory without fresh processes: the peer has no room from 128 rows on. Gives the list of questions."""
    asked = []

    def answer(question):
        asked.append((question.who, question.n))
        return Peak(DOES_NOT_FIT, None) if question.who == PEER and question.n >= 128 else Peak("ok", 1.0)

    monkeypatch.setattr(nearfar.bench.losses.memory, "peak", answer)
    monkeypatch.setattr(nearfar.bench.losses.memory, "can_measure", lambda: True)
    return asked


def test_json_has_what_is_needed_to_judge_it(written):
    report = json.loads((written / "losses.json").read_text())
    assert report["machine"]
    assert {"torch", "nearfar", PEER} <= set(report["versions"])
    assert {"commit", "load_before", "threads", "command"} <= set(report)
    assert report["plan"]["losses"] == ["supcon"]
    (cell,) = report["cells"]
    assert (cell["loss"], cell["n"], cell["dim"], cell["noise"]) == ("supcon", 64, 8, 1.0)
    for side in ("nearfar", "peer"):
        assert cell[side]["state"] == "ok"
        assert len(cell[side]["times"]["seconds"]) == len(cell[side]["times"]["cpu_seconds"]) == 2
    assert set(cell["products"]) == {"torch.mm", "fastest"}
    assert cell["value_error"] < 1e-5
    assert cell["gradient_error"] < 1e-5


@needs_proc
def test_memory_is_told_with_and_without_the_gradient(written):
    (cell,) = json.loads((written / "losses.json").read_text())["cells"]
    for side in ("nearfar", "peer"):
        taken = cell[side]
        assert 0 <= taken["peak_mib"] < 500
        assert taken["peak_less_gradient_mib"] == pytest.approx(taken["peak_mib"] - 64 * 8 * 4 / 2**20)


def test_markdown_and_picture(written):
    text = (written / "losses.md").read_text()
    assert "![Time and memory against the number of rows](losses.png)" in text
    assert "| supcon | 64 | 8 |" in text
    assert (written / "losses.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", PROBLEMS)
def test_both_sides_compute_the_same(name):
    x, labels = make(64, 128)
    value, gradient = step(build(name, "nearfar", "auto"), x, labels)
    peer_value, peer_gradient = step(build(name, PEER, "auto"), x, labels)
    assert value == pytest.approx(peer_value, rel=1e-5)
    assert value > 0
    torch.testing.assert_close(gradient, peer_gradient, rtol=1e-4, atol=1e-6)


@needs_proc
def test_what_has_no_room_is_said_not_raised():
    question = Question("supcon", PEER, n=2048, dim=8, backend="auto", limit=2**20, threads=1)
    assert peak(question) == Peak(DOES_NOT_FIT, None)


def test_a_size_beyond_one_without_room_is_not_tried(no_processes, tmp_path):
    plan = Plan(losses=("triplet_hard",), n=(256, 64, 128), dims=(8,), repeats=1)
    report = measure(plan)
    assert [n for who, n in no_processes if who == PEER] == [64, 128]
    assert [cell.n for cell in report.cells] == [64, 128, 256]
    last = report.cells[-1]
    assert last.peer.state == DOES_NOT_FIT
    assert last.peer.times.seconds == []
    assert len(last.nearfar.times.seconds) == 1
    assert last.gradient_error is None
    assert [row[3] for row in terminal_rows(report, 8)][1:] == ["no room", "no room"]
    assert markdown(report).count("does not fit") == 4  # in both tables
    assert all(path.stat().st_size for path in write(report, tmp_path))


def test_without_the_peer(no_processes, tmp_path):
    saved = []
    report = measure(
        Plan(losses=("supcon",), n=(64, 128), dims=(8,), repeats=1, peer=False), save=saved.append
    )
    assert {who for who, _ in no_processes} == {"nearfar"}
    assert [len(part.cells) for part in saved] == [1, 2]
    assert PEER not in report.versions
    assert PEER not in markdown(report).splitlines()[0]
    assert all(path.stat().st_size for path in write(report, tmp_path))


def test_products_of_many_rows_are_a_share_of_them(monkeypatch):
    monkeypatch.setattr("nearfar.bench.products.MOST_ROWS", 32)
    work, factor = products(PROBLEMS["triplet_all"], make(64, 8)[0])
    assert factor == 2
    times = take_turns(work, rounds=2)
    assert [len(times[name].seconds) for name in ("torch.mm", "fastest")] == [2, 2]


def test_patience_ends_the_rounds():
    assert len(take_turns({"nothing": lambda: None}, rounds=5, patience=0)["nothing"].seconds) == 1


def test_a_fair_share():
    assert fair_share(threads=2, cores=2) == 1.5  # three of a kind on two cores
    assert fair_share(threads=1, cores=2) == 1.0  # a core for each
    assert fair_share(threads=4, cores=2) == 1.25  # four of five, not four of four


def test_busy(capsys):
    asked = ["--loss", "supcon", "--n", "32", "--dim", "4", "--repeats", "1", "--no-peer"]
    assert run(["bench", "losses", "--busy", "--json", *asked]) == 0
    report = json.loads(capsys.readouterr().out)
    (cell,) = report["cells"]
    assert cell["who"] == "nearfar"
    assert cell["over_fair"] == pytest.approx(cell["slower"] / report["fair"])
    assert cell["beside"]["seconds"][0] > 0


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--loss", "supcom"], 2, "the benchmark has no loss named 'supcom'. Did you mean 'supcon'?"),
        (["--n", "6"], 2, "n = 6 cannot be cut into classes of 4; give a multiple of 4 from 8 on."),
        (["--dim", "0"], 2, "dim must be 1 or more; got 0."),
        (["--backend", "dens"], 1, "Did you mean 'dense'?"),
        (["-o", __file__], 1, "is a file; give a folder to write the results to."),
    ],
)
def test_errors_are_one_sentence(capsys, arguments, status, sentence):
    assert run(["bench", "losses", *arguments]) == status
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_the_peer_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    assert run(["bench", "losses", "--n", "64"]) == 1
    said = capsys.readouterr().err
    assert "pip install 'nearfar[bench]'" in said
    assert "--no-peer" in said
    assert said.count("\n") == 1
