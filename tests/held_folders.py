"""Other processes that hold a run folder, or begin trainings all at once; for tests/train/test_lock.py."""

import os
import sys
import time
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

from nearfar.cli.app import run
from nearfar.train.lock import taken
from rank_processes import server


def holder(folder: Path) -> ForkServerProcess:
    """A process that holds the folder until it is killed."""
    held = server.Event()
    process = server.Process(target=_hold, args=(folder, held))
    process.start()
    assert held.wait(60)
    return process


def _hold(folder: Path, held: Event) -> None:
    with taken(folder):
        held.set()
        time.sleep(60)


def begin_together(commands: list[list[str]], folder: Path) -> list[int | None]:
    """Run so many commands in a folder at once, none ahead of the others; return what they end with."""
    together = server.Barrier(len(commands))
    begun = [server.Process(target=_begin, args=(command, folder, together)) for command in commands]
    for process in begun:
        process.start()
    for process in begun:
        process.join()
    return [process.exitcode for process in begun]


def _begin(command: list[str], folder: Path, together: Barrier) -> None:
    os.chdir(folder)
    together.wait()
    sys.exit(run(command))
