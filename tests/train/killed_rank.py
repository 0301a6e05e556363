"""The command line, of which one process kills itself in a certain step, once; for test_ranks.py.

Called by torchrun with the step, 0 for none, and the arguments of nearfar.
"""

import os
import signal
import sys
from typing import Any

from nearfar.cli import main
from nearfar.train import loop

die_at = int(sys.argv.pop(1))
real, steps = loop.gradient, 0


def gradient(*arguments: Any, **settings: Any) -> Any:
    global steps  # noqa: PLW0603
    steps += 1
    if steps == die_at and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **settings)


loop.gradient = gradient
main()
