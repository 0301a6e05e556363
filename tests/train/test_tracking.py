"""The log is a file of JSON lines that survives crashes."""

import json
from pathlib import Path

import pytest

from nearfar.train import JsonLines, read_log


def test_lines_are_written_at_once(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    log.log({"kind": "step", "loss": 0.5})
    assert (tmp_path / "log.jsonl").read_text() == '{"kind": "step", "loss": 0.5}\n'
    log.finish()


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    log.log({"active": float("nan"), "inner": {"loss": float("inf")}})
    log.finish()
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"active": None, "inner": {"loss": None}}


def test_what_came_after_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    log.log({"step": 1})
    size = log.size()
    log.log({"step": 2})
    log.finish()
    again = JsonLines(tmp_path / "log.jsonl", size)
    again.log({"step": 3})
    again.finish()
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}, {"step": 3}]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"st')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}]


def test_a_line_of_rubbish_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n{"st{"step": 2}\n\xff\n3\n{"kind": 4}\n{"step": 5}\n')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}, {"step": 5}]
    assert "left out 4 lines that are no records" in caplog.text


def test_a_cut_log_goes_on_with_a_line_of_its_own(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    log.log({"step": 1})
    log.log({"step": 2})
    size = log.size()
    log.finish()
    content = (tmp_path / "log.jsonl").read_bytes()
    for cut in range(size):
        (tmp_path / "log.jsonl").write_bytes(content[:cut])
        again = JsonLines(tmp_path / "log.jsonl", size)
        assert again.missing == size - cut
        again.log({"step": 3})
        again.finish()
        lines = (tmp_path / "log.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [{"step": 1}] * (cut >= 12) + [{"step": 3}]
