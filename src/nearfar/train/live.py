"""What a person sees of a run: one moving line on a terminal, a plain line every few seconds elsewhere."""

import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PLAIN_SECONDS = 5.0
# Numbers that not every run has, by the last that the words need.
MORE = {
    "pairs_from_memory": "active pairs {active_in_batch:.1f} + {active_in_memory:.1f} of memory",
    "gradient_from_memory": "gradient from memory {gradient_from_memory:.0%}",
    "memory_drift": "drift {memory_drift:.2f}",
    "proxy_spread": "proxies spread {proxy_spread:.2f}",
}


class Live:
    """Shows steps as they come.

    Args:
        steps: of the whole run.
        done: steps done before, in a resumed run.
        shown: False shows nothing at all.
    """

    def __init__(self, steps: int, done: int, shown: bool) -> None:
        self._console = Console(stderr=True, quiet=not shown, highlight=False)
        self._steps = steps
        self._first = done
        self._began = time.monotonic()
        self._last_line = 0.0
        self._progress: Progress | None = None
        if shown and self._console.is_terminal:
            columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._task = self._progress.add_task("", total=steps, completed=done)

    def __enter__(self) -> "Live":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            with suppress(OSError):
                self._progress.stop()

    def say(self, text: str) -> None:
        """Show a line that stays."""
        with suppress(OSError):  # a terminal that was closed is no reason to end a run
            self._console.print(text, markup=False, soft_wrap=True)

    def step(self, record: Mapping[str, Any]) -> None:
        """Show the numbers of a step."""
        if self._progress:
            with suppress(OSError):
                self._progress.update(self._task, completed=record["step"], description=self._text(record))
        elif time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self.say(f"step {record['step']}/{self._steps}  {self._text(record)}")

    def _text(self, record: Mapping[str, Any]) -> str:
        done = record["step"] - self._first
        left = (time.monotonic() - self._began) / max(1, done) * (self._steps - record["step"])
        more = [words.format_map(record) for key, words in MORE.items() if key in record]
        return (
            f"epoch {record['epoch'] + 1}  loss {record['loss']:.4f}  active {record['active']:.0%}  "
            f"positives {record['positive_similarity']:+.2f}  "
            f"negatives {record['negative_similarity']:+.2f}  spread {record['spread']:.2f}  "
            f"{''.join(f'{part}  ' for part in more)}"
            f"{record['images_per_second']:.0f} images/s  {duration(left)} left"
        )


def duration(seconds: float) -> str:
    """Return "45 s", "3 min 20 s" or "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
