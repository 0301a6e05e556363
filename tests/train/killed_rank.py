"""The command line, of which one process kills itself at a certain moment, once; for test_ranks.py.

Called by torchrun with the arguments of nearfar, after `step 8`: rank 1 dies in step 8; or `write 8`: rank 0
dies when it has written the 8th checkpoint, and that has not taken the place of the 7th.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import nearfar.files
from nearfar.cli import main
from nearfar.train import loop

kind, die_at = sys.argv.pop(1), int(sys.argv.pop(1))
first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
real, steps = loop.gradient, 0
real_replace, writes = Path.replace, 0


def gradient(*arguments: Any, **settings: Any) -> Any:
    global steps  # noqa: PLW0603
    steps += 1
    if kind == "step" and steps == die_at and first and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **settings)


def replace(self: Path, target: Path) -> Path:
    global writes  # noqa: PLW0603
    writes += target.name == "checkpoint.pt" and target.parent.name == "last"
    if kind == "write" and writes == die_at and first:
        os.kill(os.getpid(), signal.SIGKILL)
    return real_replace(self, target)


loop.gradient = gradient
nearfar.files.Path.replace = replace  # type: ignore[method-assign]
main()
