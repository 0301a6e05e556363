"""What the commands print: progress on a terminal or as lines, tables, JSON."""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Grid

SECONDS_BETWEEN_LINES = 5.0


class Steps:
    """Progress on stderr: a bar on a terminal, else a line every few seconds.

    Call it with (done, total), or ``step(what, done, total)`` when what is done has several parts.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=None)
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
        self._bar.update(self._task, description=what, completed=done, total=total)
        told, when = self._told
        if self._console.is_terminal or (what == told and time.monotonic() - when < SECONDS_BETWEEN_LINES):
            return
        self._told = (what, time.monotonic())
        print(f"{what} {done}/{total}", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=_plain))


def print_grid(titles: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> None:
    """Print a table; columns listed in ``right`` are numbers."""
    grid = Grid(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for place, title in enumerate(titles):
        grid.add_column(title, justify="right" if place in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    Console(soft_wrap=not sys.stdout.isatty()).print(grid, markup=False, highlight=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
