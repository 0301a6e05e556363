"""The command line, of which one process kills itself at a certain moment, twice; for tests/train/test_ranks.py.

When it is started first, rank 1 dies in its 4th step; when it is started again, rank 0 dies when it has written
its 3rd checkpoint, and that has not taken the place of the 2nd. It is a script for torchrun, or what torchrun
runs without one: then no process has anything to import.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import nearfar.files
import rank_processes
from nearfar.cli import main
from nearfar.cli.app import run
from nearfar.train import loop

RESTARTS = 2


def kill_at_a_moment() -> None:
    life, own = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
    real, steps = loop.gradient, 0
    real_replace, writes = Path.replace, 0

    def gradient(*arguments: Any, **settings: Any) -> Any:
        nonlocal steps
        steps += 1
        if (life, own, steps) == ("0", "1", 4):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **settings)

    def replace(self: Path, target: Path) -> Path:
        nonlocal writes
        writes += target.name == "checkpoint.pt" and target.parent.name == "last"
        if (life, own, writes) == ("1", "0", 3):
            os.kill(os.getpid(), signal.SIGKILL)
        return real_replace(self, target)

    loop.gradient = gradient
    nearfar.files.Path.replace = replace  # type: ignore[method-assign]


def by_agent(arguments: list[str], told: Path) -> None:
    """Run two ranks as torchrun does, by its agent, in forks; what they say goes to a file.

    Raises:
        Exception: if one failed more often than it may.
    """
    rank_processes.run(_agent, 1, arguments, told, grouped=False)


def _agent(_: int, arguments: list[str], told: Path) -> None:
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with told.open("w") as file:
        os.dup2(file.fileno(), 2)
    alone = {"min_nodes": 1, "max_nodes": 1, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    config = LaunchConfig(
        **alone, nproc_per_node=2, run_id="test", max_restarts=RESTARTS, start_method="fork"
    )
    elastic_launch(config, _rank)(*arguments)


def _rank(*arguments: str) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # not what the agent does with it
    kill_at_a_moment()
    if code := run(arguments):
        sys.exit(code)


if __name__ == "__main__":
    kill_at_a_moment()
    main()
