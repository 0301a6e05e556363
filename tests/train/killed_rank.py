"""The command line, of which one process kills itself at a certain moment, twice; for test_ranks.py.

Called by torchrun with the arguments of nearfar. When it is started first, rank 1 dies in its 4th step; when it
is started again, rank 0 dies when it has written its 3rd checkpoint, and that has not taken the place of the 2nd.
"""

import os
import signal
from pathlib import Path
from typing import Any

import nearfar.files
from nearfar.cli import main
from nearfar.train import loop

life, own = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
real, steps = loop.gradient, 0
real_replace, writes = Path.replace, 0


def gradient(*arguments: Any, **settings: Any) -> Any:
    global steps  # noqa: PLW0603
    steps += 1
    if (life, own, steps) == ("0", "1", 4):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **settings)


def replace(self: Path, target: Path) -> Path:
    global writes  # noqa: PLW0603
    writes += target.name == "checkpoint.pt" and target.parent.name == "last"
    if (life, own, writes) == ("1", "0", 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return real_replace(self, target)


loop.gradient = gradient
nearfar.files.Path.replace = replace  # type: ignore[method-assign]
main()
