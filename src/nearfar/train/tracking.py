"""Where the numbers of a run go: a file of JSON lines always, and any service behind four methods."""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

log = logging.getLogger("nearfar")


@runtime_checkable
class Tracker(Protocol):
    """What a run tells the outside. An adapter to a service has these four methods."""

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """The run begins at ``step``, or goes on from it."""
        ...

    def log(self, record: Mapping[str, Any]) -> None:
        """One record: a step, a validation, a warning. Its "kind" says which."""
        ...

    def file(self, path: Path) -> None:
        """A file worth keeping was written: the model, the report."""
        ...

    def finish(self) -> None:
        """The run ended, was stopped or failed."""
        ...


class JsonLines:
    """Writes ``log.jsonl``: one JSON object a line, each line written out as soon as it is known.

    Args:
        path: the file; what it holds is kept.
        size: bytes to keep. A run that goes on from a checkpoint drops what was written after it, so that the
            file is the log of one run.

    Attributes:
        missing: bytes that the checkpoint knows of and the file lacks: it was cut.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self._file = path.open("a+b", buffering=0)
        there = self._file.seek(0, os.SEEK_END)
        self.missing = max(0, size - there)
        if self.missing:  # cut: what is written next begins a line of its own
            self._file.seek(0)
            size = self._file.readall().rfind(b"\n") + 1
        if there > size:
            self._file.truncate(size)

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """The configuration has a file of its own."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line; a number that is not finite becomes null, as JSON has none."""
        line = json.dumps({key: _plain(value) for key, value in record.items()}, allow_nan=False)
        self._file.write(line.encode() + b"\n")

    def file(self, path: Path) -> None:
        """Files lie in the run folder already."""

    def finish(self) -> None:
        """Close the file."""
        self._file.close()

    def size(self) -> int:
        """Return the bytes written so far, all of them on the disk."""
        os.fsync(self._file.fileno())
        return self._file.tell()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Return the records of a ``log.jsonl``; lines that are no records, cut off or damaged, are left out."""
    records, bad = [], 0
    lines = Path(path).read_bytes().split(b"\n")
    for line in lines[:-1]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and isinstance(record.get("kind", ""), str):
            records.append(record)
        elif line.strip():
            bad += 1
    if bad:
        log.warning("%s: left out %d lines that are no records; they are cut or damaged.", path, bad)
    return records


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return value
