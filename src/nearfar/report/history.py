"""What ``log.jsonl`` tells, read as far as it is whole: a log that was cut or edited is no reason to stop."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

# What a reader of the records relies on, by kind.
NEEDED = {"step": ("step",), "validation": ("step", "epoch")}
BEGINNING = b'{"kind"'


@dataclass(frozen=True)
class History:
    """The records of a log.

    Attributes:
        records: those that are whole, in order.
        lost: sentences that say what is not there.
    """

    records: list[dict[str, Any]]
    lost: tuple[str, ...] = ()


def read_history(path: str | Path) -> History:
    """Read a log; lines that are damaged are left out and said."""
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return History([], (f"{path.name} is missing: nothing is known of the course of the training.",))
    except OSError as error:
        return History([], (f"{path.name} cannot be read ({error.strerror}): its curves are left out.",))
    records: list[dict[str, Any]] = []
    damaged: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = _record(line)
        if found is None:
            damaged.append(number)
            # Where a cut line was written on, its end is a record of its own.
            found = _record(line[line.rfind(BEGINNING) :]) if line.rfind(BEGINNING) > 0 else None
        if found is not None:
            records.append(found)
    if damaged == [len(lines)]:  # a crash in the middle of the last line
        damaged = []
    return History(records, (*_damage(path.name, damaged), *_gaps(path.name, records)))


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
        return None
    needed = NEEDED.get(found["kind"], ())
    if not all(_whole(found.get(key)) for key in needed):
        return None
    return (
        {key: value if key == "kind" else _number(value) for key, value in found.items()} if needed else found
    )


def _number(value: Any) -> Any:
    """Return what a curve can show; anything else is a gap in it."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _damage(name: str, lines: Sequence[int]) -> list[str]:
    if not lines:
        return []
    if len(lines) == 1:
        return [f"line {lines[0]} of {name} is damaged and left out."]
    return [f"{len(lines)} lines of {name} are damaged and left out, the first of them line {lines[0]}."]


def _gaps(name: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which steps the log does not tell: they are told at even distances."""
    told = sorted({record["step"] for record in records if record["kind"] == "step"})
    start = next((record for record in records if record["kind"] == "start"), None)
    found = [] if start else [f"the beginning of {name} is missing."] if records else []
    if len(told) < 3:
        return found
    ((every, _),) = Counter(later - earlier for earlier, later in pairwise(told)).most_common(1)
    holes = [(earlier, later) for earlier, later in pairwise([0, *told]) if later - earlier > every]
    steps = start.get("steps") if start else None
    if isinstance(steps, int) and steps - told[-1] > every:
        holes.append((told[-1], steps + 1))
    if holes:
        first = holes[0]
        more = f" and {len(holes) - 1} more such part{'s' * (len(holes) > 2)}" if len(holes) > 1 else ""
        found.append(
            f"{name} tells nothing of the steps {first[0] + 1:,} to {first[1] - 1:,}{more}: it was cut, and "
            "the curves leave them out."
        )
    return found
