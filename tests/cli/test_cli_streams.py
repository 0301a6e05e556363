"""What is behind standard output and error: nobody, a full disk, an old code page, a narrow terminal, a program."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nearfar.cli import show, streams
from nearfar.cli.app import run
from nearfar.cli.failures import safe, tell
from nearfar.cli.notices import Notices

NEARFAR = [sys.executable, "-m", "nearfar"]


def shell(command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a line of sh in which "nearfar" is this one."""
    return subprocess.run(
        ["sh", "-c", command.replace("nearfar", f"{sys.executable} -m nearfar")],
        env={**os.environ, **more}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="sh is of Unix")
@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("nearfar doctor --quick --json | head -c 1 >/dev/null", 0),
        ("nearfar doctor --quick >&-", 0),
        ("nearfar doctor --quick 2>&-", 0),
        ("nearfar train nothing >&- 2>&-", 2),
        ("nearfar doctor --quick </dev/null", 0),
    ],
)
def test_closed_streams(command, status):
    done = shell(command)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this machine")
def test_a_full_disk():
    done = shell("nearfar doctor --quick >/dev/full")
    assert done.returncode == 1
    assert done.stderr == "nearfar: no space is left on the device; free some and try again.\n"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437", "utf-8"])
def test_code_pages(encoding):
    done = subprocess.run(
        [*NEARFAR, "doctor", "--quick"], env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    told = done.stdout.decode(encoding)
    assert ("✓" if encoding == "utf-8" else "√" if encoding == "cp437" else "ok") in told or "Python" in told


def test_signs_that_a_code_page_lacks():
    streams.prepare()
    assert "62 % → 47 %, Σ α ≥ 0 ✓ é 日".encode("ascii", streams.HANDLER).decode() == (
        r"62 % -> 47 %, Sigma alpha >= 0 ok e \u65e5"
    )
    "→ ≥ ✓ … “x”".encode("cp1252", streams.HANDLER)


def test_json_on_an_old_code_page_is_json(monkeypatch):
    value = {"name": "→ 😀 é", "path": "C:\\photos\\a.png", "bad": "\udcff\x1b\x9b\u202e", "nan": math.nan,
             "infinite": [math.inf, 1.0], "at": Path("a/b")}  # fmt: skip
    for encoding in ("utf-8", "cp1252", "ascii"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        streams.prepare()
        show.print_json(value)
        sys.stdout.flush()
        told = raw.getvalue()
        assert not {b"\x1b", b"\x9b"} & {told[i : i + 1] for i in range(len(told))} or encoding == "utf-8"
        found = json.loads(told.decode(encoding))
        assert found["name"] == "→ 😀 é"
        assert found["path"] == "C:\\photos\\a.png"
        assert (found["nan"], found["infinite"]) == (None, [None, 1.0])
        assert found["bad"] == "\udcff\x1b\x9b\u202e"
        assert "\x1b" not in told.decode(encoding)
        assert "\x9b" not in told.decode(encoding)
        assert "\u202e" not in told.decode(encoding)


def test_bare_commands_show_their_help(capsys):
    for arguments in ([], ["bench"], ["caffe"]):
        capsys.readouterr()
        assert run(arguments) == 2
        told = capsys.readouterr()
        assert "nearfar: \n" not in told.err
        assert "Usage" in told.out or "Missing command" in told.err
    assert run(["--help"]) == 0


@pytest.mark.parametrize("columns", ["0", "1", "20", "80", "1000", "many", "-5"])
def test_widths(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert run(["data"]) == 0
    rows = [["objects", "a name", "62.0 (60.1 to 63.9)", ""], ["objects", "b", "1.0", "2"]]
    show.print_wide(["data", "setting", "Recall@1, %", "seeds"], rows)
    told = capsys.readouterr().out
    assert "62.0 (60.1 to 63.9)" in told


def test_a_table_that_does_not_fit_is_told_in_lines(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    titles = ["data", "setting", "Recall@1, %", "MAP@R, %", "behind the best", "seeds", "training, s"]
    row = ["objects", "contrastive, model.dim = 64", "62.0 (60.1 to 63.9)", "31.0 (30.1 to 33.9)",
           "2.1 (1.0 to 3.0)", "3", "75"]  # fmt: skip
    show.print_wide(titles, [row, ["objects", *row[1:]]])
    told = capsys.readouterr().out.splitlines()
    assert max(map(len, told)) <= 80
    assert told[:3] == [
        "objects",
        "  contrastive, model.dim = 64",
        "    Recall@1, %      62.0 (60.1 to 63.9)",
    ]
    assert told.count("objects") == 1


def test_names_are_shown_and_not_obeyed(capsys):
    show.say("a\x1b[31mred\nnext")
    show.print_grid(["na\x1bme"], [["[red]x[/red]\x07"]])
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "\x07" not in told
    assert "[red]x[/red]" in told
    assert r"a\x1b[31mred" in told


def test_sentences_are_short_and_safe(capsys):
    assert len(safe("x" * 100_000)) < 400
    assert len(safe("word " * 100_000)) <= 4000
    assert safe("a\x1b]0;title\x07b\nc") == "a\\x1b]0;title\\x07b\nc"
    assert run(["train", "objects", f"loss.name={'x' * 10_000}", "--dry-run"]) == 2
    assert len(capsys.readouterr().err) < 1000
    assert run(["losses", "\x1b[2J"]) == 1
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (MemoryError(), "not enough memory"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), "is not UTF-8"),
        (PermissionError(13, "Permission denied", "/x"), "Permission denied: /x."),
        (OSError("nobody knows"), "nobody knows."),
    ],
)
def test_what_the_system_refuses_is_a_sentence(capsys, error, words):
    assert tell(error) == 1
    told = capsys.readouterr().err
    assert words in told
    assert "should not happen" not in told


def test_a_notice_is_told_once(capsys):
    import logging
    import warnings

    with Notices(debug=False), warnings.catch_warnings():
        warnings.simplefilter("always")
        for _ in range(3):
            logging.getLogger("nearfar").warning("left out: %d", 4)
            warnings.warn("beware\x1b", stacklevel=1)
    assert capsys.readouterr().err == "left out: 4\nnearfar: beware\\x1b\n"
    with Notices(debug=False):
        logging.getLogger("nearfar").warning("left out: %d", 4)
        logging.getLogger("nearfar").info("of no interest")
    assert capsys.readouterr().err == "left out: 4\n"
