"""Ctrl-C, SIGTERM and SIGHUP end a run between two steps, where its state is whole."""

import os
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from nearfar.errors import NearfarError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Windows has no SIGHUP."""


class RunInterrupted(NearfarError):
    """The run was stopped by a signal; a checkpoint was written and the run can be resumed."""


class StopRequest:
    """Remembers that the run shall stop, and says so; a second Ctrl-C stops at once, without a checkpoint.

    Outside the main thread, where Python delivers no signals, nothing is installed.

    Args:
        folder: of the run, for the command that goes on.
        shown: whether a person watches.
    """

    def __init__(self, folder: Path, *, shown: bool = True) -> None:
        self.requested = False
        self._folder, self._shown = folder, shown
        self._handlers = Handlers(SIGNALS, self._take)

    def __enter__(self) -> "StopRequest":
        self._handlers.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._handlers.__exit__(*error)

    def _take(self, number: int) -> None:
        if not self.requested:
            self.requested = True
            self._say(
                "stopping as soon as this step is done, with a checkpoint; Ctrl-C stops at once, without."
            )
        elif number == signal.SIGINT:
            raise KeyboardInterrupt(
                "stopped at once, without a checkpoint of this moment; go on from the last one with: "
                f"nearfar train {self._folder} --resume"
            )
        else:
            self._say("still stopping: the step is not done, and then the checkpoint has to be written.")

    def _say(self, text: str) -> None:
        if self._shown:
            with suppress(OSError):  # the terminal may be what has gone
                os.write(2, f"nearfar: {text}\n".encode())  # print may be at work just now


class Handlers:
    """Gives some signals to a function while it is entered.

    One that is ignored stays so, as SIGHUP is under nohup; Ctrl-C and SIGTERM are for us in any case.
    """

    def __init__(self, numbers: Iterable[int], take: Callable[[int], None]) -> None:
        self._numbers, self._take_up = numbers, take
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._numbers:
            ignored = signal.getsignal(number) == signal.SIG_IGN
            if not ignored or number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (what signal calls)
        if os.getpid() != self._process:  # a worker inherits the handler; its parent ends it
            if number == signal.SIGTERM:
                os._exit(0)
            return
        self._take_up(number)


def stopped_before_training() -> Handlers:
    """Let SIGTERM and SIGHUP end what comes before the first step as Ctrl-C does, with a sentence."""

    def stop(_: int) -> None:
        raise KeyboardInterrupt("stopped before training began or went on; what was there is as it was.")

    return Handlers([number for number in SIGNALS if number != signal.SIGINT], stop)
