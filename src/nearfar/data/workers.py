"""Processes that read images: they end with the training and not with the signals that are meant for it."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from nearfar.errors import NearfarError

# Sent to a whole group of processes, by a terminal, a scheduler or a container.
TO_THE_GROUP = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class WorkerLost(NearfarError):
    """A process that reads images ended before its time."""


def stand_apart(_: int) -> None:
    """Leave the group of the training; called in a new worker, whose parent alone ends it from now on."""
    if not hasattr(os, "setpgid"):
        return
    os.setpgid(0, 0)
    for number in TO_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)  # drops what came while `signals_wait`
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_THE_GROUP)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Hold signals back while workers are started, so that none meets a worker that is half made."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TO_THE_GROUP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def loss_in_one_sentence() -> Iterator[None]:
    """Turn torch's error about a worker into a sentence.

    Raises:
        WorkerLost: if a process that reads images was killed.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(.*)", str(error), re.DOTALL)
        if found is None:
            raise
        how = "its shared memory is full" if "shared memory" in found[2] else "it was killed"
        raise WorkerLost(
            f"process {found[1]}, which read images, ended ({how}), often for want of memory; set "
            "data.workers lower, or data.memory_limit higher to read them once, and go on with --resume."
        ) from error
