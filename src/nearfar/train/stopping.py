"""Ctrl-C and SIGTERM end a run between two steps, where its state is whole."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from nearfar.errors import NearfarError


class RunInterrupted(NearfarError):
    """The run was stopped by a signal; a checkpoint was written and the run can be resumed."""


class StopRequest:
    """Remembers that the run shall stop; a second Ctrl-C stops at once, without a checkpoint.

    Outside the main thread, where Python delivers no signals, nothing is installed.
    """

    def __init__(self) -> None:
        self.requested = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (what signal calls)
        if os.getpid() != self._process:  # a worker inherits the handler; its parent ends it
            if number == signal.SIGTERM:
                os._exit(0)
            return
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
