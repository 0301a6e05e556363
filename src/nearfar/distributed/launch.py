"""Processes that torchrun started become ranks, and end with one message between them."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from nearfar.distributed.agree import wait_for_all
from nearfar.distributed.world import world_size
from nearfar.errors import NearfarError, Told

TIMEOUT = timedelta(minutes=15)
"""How long a rank waits for another that neither comes nor dies."""
PATIENCE = 10.0
"""Seconds in which ranks that end hear of each other."""


class RankLost(NearfarError):
    """Another rank ended without a word, so this one cannot go on."""


def started_by_torchrun() -> bool:
    """Whether this process is one of several that torchrun, or something like it, started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def local_rank() -> int:
    """Return this process's place among those on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Return the number of ranks on this machine; 1 where torch.distributed is not running."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world_size() > 1 else 1


def restarted() -> bool:
    """Whether torchrun has started these processes anew after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def launch_id() -> str | None:
    """Return what one call of torchrun keeps over its restarts; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"process {os.getppid()}" if name == "none" else name


@contextmanager
def joined(
    timeout: timedelta = TIMEOUT, tell: Callable[[BaseException], object] | None = None
) -> Iterator[None]:
    """Make the processes that torchrun started into ranks; nothing happens in one alone, or in a group.

    When a rank fails, all leave this context with an exception, one of them with the reason and the others
    with ``Told``.

    Args:
        timeout: of ranks that wait for one that neither comes nor dies.
        tell: shows the reason, on the one rank that has it; this rank then raises ``Told`` too.

    Raises:
        RankLost: if another rank ended without a word, on one of those that are left.
    """
    if not started_by_torchrun() or world_size() > 1:
        yield
        return
    store, own, size = next(iter(dist.rendezvous("env://", timeout=timeout)))
    kinds = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    group = dist.PrefixStore("nearfar/group", store)
    try:
        dist.init_process_group(kinds, store=group, rank=own, world_size=size, timeout=timeout)
    except RuntimeError as error:
        raise NearfarError(
            f"the {size} processes do not find each other ({_first_line(error)}); if that is after a "
            "restart, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where torchrun is called."
        ) from error
    notice = Notice(dist.PrefixStore("nearfar/notice", store), own, size)
    before = _on_sigterm(_interrupted)
    try:
        yield
        wait_for_all()  # gloo complains of a rank that leaves while another still talks
    except BaseException as error:
        # As soon as one process has ended, torchrun ends the others; there is a word to say before.
        _on_sigterm(signal.SIG_IGN)
        lost = _is_lost(error)
        mine = notice.claim(wait=lost)
        dist.destroy_process_group()  # whoever waits for this rank hears that it is gone
        if not mine:
            notice.wait_until_told()
            raise Told from error
        reason: BaseException = _rank_lost(error, timeout) if lost else error
        if tell is not None:
            tell(reason)
        notice.told(PATIENCE / 5 if lost and not _is_late(error) else PATIENCE)
        if tell is not None:
            raise Told from error
        if lost:
            raise reason from error
        raise
    finally:
        _on_sigterm(before)
    dist.destroy_process_group()


class Notice:
    """Which rank tells why all end: the first that says so. Kept outside of the group, which may be gone."""

    def __init__(self, store: dist.Store, own: int, size: int) -> None:
        self._store, self._own, self._size = store, own, size
        self._mine = False

    def claim(self, *, wait: bool) -> bool:
        """Return whether this rank shall tell.

        Args:
            wait: give another rank, which knows the reason, the time to say so first.
        """
        try:
            deadline = time.monotonic() + (0.1 * PATIENCE if wait else 0.0)
            while not self._store.check(["told by"]) and time.monotonic() < deadline:
                time.sleep(0.05)
            self._mine = self._store.add("told by", 1) == 1
        except (dist.DistError, RuntimeError):  # rank 0 keeps the store, and took it along
            self._mine = self._own == 1
        return self._mine

    def told(self, seconds: float) -> None:
        """Say that it is told, and stay a while until the others know: they may read it from this process."""
        if self._mine:
            with suppress(dist.DistError, RuntimeError):
                self._store.set("told", "yes")
                deadline = time.monotonic() + seconds
                while self._store.add("heard", 0) < self._size - 1 and time.monotonic() < deadline:
                    time.sleep(0.05)

    def wait_until_told(self) -> None:
        """Stay until it is told: torchrun ends all processes as soon as one has ended."""
        with suppress(dist.DistError, RuntimeError):
            deadline = time.monotonic() + PATIENCE
            while not self._store.check(["told"]) and time.monotonic() < deadline:
                time.sleep(0.05)
            self._store.add("heard", 1)


def _rank_lost(error: BaseException, timeout: timedelta) -> RankLost:
    how = (
        "the connection to another process is lost: it was killed, ran out of memory, or its machine is gone."
    )
    if _is_late(error):
        seconds = timeout.total_seconds()
        how = f"another process did not come within {seconds:.0f} seconds: it hangs, or is lost."
    return RankLost(
        f"{how} What was saved is intact; go on with --resume, or let torchrun do so (--max-restarts)."
    )


def _is_late(error: BaseException) -> bool:
    """Whether a collective failed because another rank did not come."""
    return "timed out" in str(error).lower()


def _is_lost(error: BaseException | None) -> bool:
    """Whether a collective failed because another rank is gone, and that led to this error."""
    while error is not None and not isinstance(error, NearfarError):
        if isinstance(error, dist.DistError):
            return True
        if isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "Gloo", "NCCL")):
            return True
        error = error.__context__
    return False


def _on_sigterm(handler: Any) -> Any:
    """Set what SIGTERM does, where Python delivers signals, and return what it did."""
    if threading.current_thread() is not threading.main_thread():
        return signal.SIG_DFL
    return signal.signal(signal.SIGTERM, handler)


def _interrupted(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (what signal calls)
    raise KeyboardInterrupt


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", maxsplit=1)[0]
