"""A log that was cut, edited or lost: what is whole is read, and what is missing is said."""

import json
from dataclasses import replace

import pytest

from nearfar.report.curves import chosen, steps, training_curves, validations
from nearfar.report.history import read_history
from nearfar.report.sections import figures
from nearfar.report.summary import find, summarise


def lines(count: int = 40) -> list[str]:
    """Return the lines of a log of ``count`` steps, each second told, validated each tenth."""
    records: list[dict] = [{"kind": "start", "step": 0, "steps": count, "numerics": {"precision": "float32"}}]
    for step in range(2, count + 1, 2):
        records.append({"kind": "step", "step": step, "epoch": step // 10, "loss": 1.0, "active": 0.5})
        if step % 10 == 0:
            records.append({"kind": "validation", "step": step, "epoch": step // 10 - 1, "map_at_r": step / 100,
                            "recall_at_1": 0.5, "best": True})  # fmt: skip
    records.append({"kind": "end", "step": count, "seconds": 3.5})
    return [json.dumps(record) for record in records]


def test_a_whole_log(tmp_path):
    (tmp_path / "log.jsonl").write_text("\n".join(lines()) + "\n")
    found = read_history(tmp_path / "log.jsonl")
    assert len(found.records) == 26
    assert found.lost == ()


def test_a_last_line_that_a_crash_cut_is_no_loss(tmp_path):
    text = "\n".join(lines()) + "\n"
    (tmp_path / "log.jsonl").write_text(text + '{"kind": "st')
    assert read_history(tmp_path / "log.jsonl").lost == ()


def test_a_log_that_was_cut_and_written_on(tmp_path):
    """The line that was cut and the first one after it are one line: its end is still a record."""
    told = lines()
    (tmp_path / "log.jsonl").write_text("\n".join(told[:8]) + told[8][:20] + "\n".join(told[18:]) + "\n")
    found = read_history(tmp_path / "log.jsonl")
    assert [record["step"] for record in found.records if record["kind"] == "step"][-1] == 40
    assert any("line 8 of log.jsonl is damaged" in words for words in found.lost)
    assert any("tells nothing of the steps" in words for words in found.lost)
    training_curves(found.records, 700, "title")


def test_steps_that_are_missing_are_named(tmp_path):
    told = lines()
    (tmp_path / "log.jsonl").write_text("\n".join([*told[:6], *told[12:]]) + "\n")
    (words,) = read_history(tmp_path / "log.jsonl").lost
    assert words.startswith("log.jsonl tells nothing of the steps 11 to 21: it was cut")
    (tmp_path / "log.jsonl").write_text("\n".join(told[:-12]) + "\n")
    (words,) = read_history(tmp_path / "log.jsonl").lost
    assert "steps 23 to 40" in words
    (tmp_path / "log.jsonl").write_text("\n".join(told[6:]) + "\n")
    assert read_history(tmp_path / "log.jsonl").lost[0] == "the beginning of log.jsonl is missing."


def test_a_run_that_was_resumed_tells_all_steps(tmp_path):
    told = lines()
    (tmp_path / "log.jsonl").write_text(
        "\n".join([*told[:9], '{"kind": "resume", "step": 12}', *told[9:]]) + "\n"
    )
    assert read_history(tmp_path / "log.jsonl").lost == ()


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\x00",
        b"\x00" * 500,
        b"[1, 2]",
        b"3",
        b'"text"',
        b"{}",
        b'{"kind": 3}',
        b'{"kind": "step"}',
        b'{"kind": "step", "step": "ten"}',
        b'{"kind": "step", "step": null}',
        b'{"kind": "step", "step": -4}',
        b'{"kind": "validation", "step": 3, "epoch": null}',
        b"[" * 100_000,
        b'{"kind": "step", "step": 1e999}',
    ],
)
def test_lines_of_any_kind(tmp_path, line):
    told = [text.encode() for text in lines()]
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([*told[:5], line, *told[5:]]) + b"\n")
    found = read_history(tmp_path / "log.jsonl")
    assert found.lost == ("line 6 of log.jsonl is damaged and left out.",)
    assert len(found.records) == 26
    assert len(steps(found.records)) == 20
    assert len(validations(found.records)) == 4
    assert chosen(found.records)["step"] == 40


@pytest.mark.parametrize("value", ["null", '"x"', "[]", "{}", "true", "NaN", "1e400"])
def test_values_of_any_kind(material, tmp_path, value):
    for key in ("loss", "map_at_r", "recall_at_1", "active", "best", "seconds"):
        text = "\n".join(lines()).replace(f'"{key}": ', f'"{key}": {value}, "was": ')
        (tmp_path / "log.jsonl").write_text(text + "\n")
        log = read_history(tmp_path / "log.jsonl").records
        training_curves(log, 700, "title")
        findings = find(material)
        changed = replace(material, log=log)
        summary = summarise(changed, findings)
        figures(changed, summary)
        json.dumps(summary, allow_nan=False)


def test_no_log_and_no_permission(tmp_path):
    assert "log.jsonl is missing" in read_history(tmp_path / "log.jsonl").lost[0]
    (tmp_path / "log.jsonl").mkdir()
    assert "cannot be read" in read_history(tmp_path / "log.jsonl").lost[0]
