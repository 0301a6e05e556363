"""The command line, of which processes kill themselves at certain moments; for test_ranks.py.

Called by torchrun with the arguments of nearfar. Rank 1 dies in step 8; started once more, rank 0 dies when it has
written its second checkpoint, and that has not taken the place of the first; started again, none does.
"""

import os
import signal
from pathlib import Path
from typing import Any

import nearfar.files
from nearfar.cli import main
from nearfar.train import loop

restarts, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
real, steps = loop.gradient, 0
real_replace, writes = Path.replace, 0


def gradient(*arguments: Any, **settings: Any) -> Any:
    global steps  # noqa: PLW0603
    steps += 1
    if (restarts, rank, steps) == (0, 1, 8):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **settings)


def replace(self: Path, target: Path) -> Path:
    global writes  # noqa: PLW0603
    writes += target.name == "checkpoint.pt" and target.parent.name == "last"
    if (restarts, rank, writes) == (1, 0, 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return real_replace(self, target)


loop.gradient = gradient
nearfar.files.Path.replace = replace  # type: ignore[method-assign]
main()
