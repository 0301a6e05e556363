"""What the commands print: progress on a terminal or as lines, tables, JSON."""

import dataclasses
import json
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Grid
from rich.text import Text

from nearfar.cli.streams import can_write
from nearfar.printable import TURNS, printable

SECONDS_BETWEEN_LINES = 5.0
# What JSON allows as it is and a terminal obeys.
OBEYED = re.compile(f"[\x7f-\x9f\u2028\u2029{''.join(sorted(TURNS))}]")


class Steps:
    """Progress on stderr: a bar on a terminal, else a line every few seconds.

    Call it with (done, total), or ``step(what, done, total)`` when what is done has several parts.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(printable(what), total=None)
        self._told = ("", 0.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        self.step(self.what, done, total)

    def step(self, what: str, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` steps of ``what`` are done."""
        self._bar.update(self._task, description=printable(what), completed=done, total=total)
        told, when = self._told
        if self._console.is_terminal or (what == told and time.monotonic() - when < SECONDS_BETWEEN_LINES):
            return
        self._told = (what, time.monotonic())
        print(f"{printable(what)} {done}/{total}", file=sys.stderr, flush=True)


def say(*parts: object) -> None:
    """Print a text for people on stdout; what a terminal would obey is shown and not obeyed."""
    print(printable(" ".join(map(str, parts)), keep="\n"))


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; a number that is not finite becomes null."""
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    text = OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    # An escape of JSON's is what can stand for a letter that the stream lacks, and no other.
    print(text if can_write(text) else json.dumps(json.loads(text), indent=1))


def print_grid(titles: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> None:
    """Print a table; columns listed in ``right`` are numbers."""
    grid = Grid(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for place, title in enumerate(titles):
        grid.add_column(
            Text(printable(title)), justify="right" if place in right else "left", overflow="fold"
        )
    for row in rows:
        # Text and not str: a name such as [red] is no markup.
        grid.add_row(*(Text(printable(_cell(cell))) for cell in row))
    Console(soft_wrap=not sys.stdout.isatty()).print(grid, markup=False, highlight=False)


def print_wide(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print a table where it fits the width, else each row as lines under its first two cells."""
    widths = [max(map(cell_len, column)) for column in zip(titles, *rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= Console().width:
        print_grid(titles, rows, right)
        return
    name = max(map(cell_len, titles[2:]))
    for place, row in enumerate(rows):
        if place == 0 or row[0] != rows[place - 1][0]:
            say(("\n" if place else "") + row[0])
        say(f"  {row[1]}")
        for title, cell in zip(titles[2:], row[2:], strict=True):
            if cell:
                say(f"    {title:<{name}}  {cell}")


def _cell(cell: Any) -> str:
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)


def _finite(value: Any) -> Any:
    """Turn what JSON lacks into what it has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
