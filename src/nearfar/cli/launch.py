"""Commands under torchrun: every process runs the command, the first one speaks."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from nearfar.cli.failures import tell

Value = TypeVar("Value")


@contextmanager
def ranks() -> Iterator[bool]:
    """Join the other processes of the command, if there are any, and yield whether this one speaks."""
    if _alone():
        yield True
        return
    from nearfar import distributed

    with distributed.joined(tell=tell):
        first = distributed.rank() == 0
        if first and _restarts_are_shaky():
            print(
                "nearfar: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where torchrun is called; without it, a "
                "restart may find what the processes before have left.",
                file=sys.stderr,
            )
        yield first


def by_first(work: Callable[[], Value]) -> Value:
    """Return what ``work`` returns in the first process; an error there ends all."""
    if _alone():
        return work()
    from nearfar import distributed

    return distributed.by_rank_0(work)


def once_a_machine(work: Callable[[], None]) -> None:
    """Do ``work`` in one process of each machine, while the others wait."""
    if _alone():
        work()
        return
    from nearfar import distributed

    if distributed.local_rank() == 0:
        work()
    distributed.wait_for_all()


def is_restarted() -> bool:
    """Whether torchrun starts this command anew after a failure."""
    if _alone():
        return False
    from nearfar import distributed

    return distributed.restarted()


def began_here(run: Path) -> bool:
    """Whether a run was begun by this call of torchrun, before it restarted."""
    from nearfar import distributed
    from nearfar.train import read_log

    if not (run / "config.toml").exists():
        return False
    log = run / "log.jsonl"
    launches = [record.get("launch") for record in read_log(log)] if log.exists() else []
    return not any(launches) or distributed.launch_id() in launches


def _restarts_are_shaky() -> bool:
    """Whether torchrun may restart, and keeps what processes tell each other over a restart."""
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
    return restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _alone() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) == 1
