"""One thread a core over disjoint work, each with single-threaded operations.

Threads that own their rows keep their speed when other processes share the cores; splitting every small
operation over all cores does not: each operation then waits for the slowest core.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import TypeVar

import torch

Item = TypeVar("Item")
Value = TypeVar("Value")

_pools: dict[int, ThreadPoolExecutor] = {}
_members: dict[int, list[int]] = {}
_placed: dict[int, frozenset[int]] = {}
_set_aside = threading.local()
if hasattr(os, "register_at_fork"):  # where a process can fork, and threads do not survive it
    os.register_at_fork(after_in_child=_pools.clear)


def in_threads(work: Callable[[Item], Value], items: Iterable[Item], workers: int | None) -> list[Value]:
    """Apply ``work`` to every item, on ``workers`` threads (None: as many as torch uses)."""
    return list(_pool(workers or _available()).map(work, items))


@contextmanager
def plainly() -> Iterator[None]:
    """Run this thread's own operations on one core, in the precision of what they are given.

    One core: the threads behind a parallel operation go on waiting, busily, for the next one, and would take
    the time of the threads over tiles. Autocast is off, and inference mode is left (without gradient), since
    the other threads are not in it. Use it as a context or as a decorator.
    """
    before = torch.get_num_threads()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if before > 1:
            _set_aside.count = before
            torch.set_num_threads(1)
            stack.callback(_give_back, before)
        yield


def _give_back(count: int) -> None:
    torch.set_num_threads(count)
    _set_aside.count = 1


def in_turn(work: Callable[[int], None], keys: Sequence[tuple[int, ...]], workers: int | None = None) -> None:
    """Call ``work(0)``, ``work(1)``, …; calls that share a key run one after the other, in this order.

    So whatever two calls with a common key change is changed in the same order by any number of threads: sums
    are the same to the last bit.

    Args:
        keys: for each call, what it changes.
        workers: threads; None is as many as torch uses.
    """
    workers = min(workers or _available(), len(keys))
    if workers <= 1:
        for index in range(len(keys)):
            work(index)
        return
    turns = _turns(keys)
    done = dict.fromkeys((key for some in keys for key in some), 0)
    changed = threading.Condition()
    upcoming = count()
    failed = False

    def ready(index: int) -> bool:
        return failed or all(done[key] == turn for key, turn in zip(keys[index], turns[index], strict=True))

    def loop() -> None:
        nonlocal failed
        while (index := next(upcoming)) < len(keys) and not failed:
            with changed:
                changed.wait_for(lambda i=index: ready(i))
            if failed:
                return
            try:
                with torch.no_grad():
                    work(index)
            except BaseException:
                failed = True
                raise
            finally:
                with changed:
                    for key in keys[index]:
                        done[key] += 1
                    changed.notify_all()

    for future in [_pool(workers).submit(loop) for _ in range(workers)]:
        future.result()


def _available() -> int:
    """As many threads as torch uses, ``plainly`` or not."""
    return max(torch.get_num_threads(), getattr(_set_aside, "count", 1))


def _turns(keys: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Count for each call and each of its keys how many earlier calls have that key."""
    seen: dict[int, int] = {}
    turns = []
    for some in keys:
        turns.append(tuple(seen.get(key, 0) for key in some))
        for key in some:
            seen[key] = seen.get(key, 0) + 1
    return turns


def _pool(workers: int) -> ThreadPoolExecutor:
    if workers not in _pools:
        before = torch.get_num_threads()
        started = threading.Barrier(workers + 1)
        _members[workers], _placed[workers] = [], frozenset()
        pool = ThreadPoolExecutor(workers, "nearfar", initializer=_start, initargs=(_members[workers],))
        for _ in range(workers):
            pool.submit(started.wait)
        started.wait()
        torch.set_num_threads(before)  # what a thread sets is also what threads started later begin with
        _pools[workers] = pool
    _place(workers)
    return _pools[workers]


def _start(members: list[int]) -> None:
    """Give this thread one thread for its operations."""
    torch.set_num_threads(1)
    torch.get_num_threads()  # asking makes torch note the number for good
    members.append(threading.get_native_id())


def _place(workers: int) -> None:
    """Give each thread a core of its own where the caller may use just as many, else all of these.

    Threads that hand Python's lock to each other look to Linux like one waiting for the other, and it likes
    to put such threads on one core. What the caller may use can change from call to call.
    """
    if not hasattr(os, "sched_setaffinity"):  # only Linux lets a thread choose
        return
    cores = frozenset(os.sched_getaffinity(0))
    if cores == _placed[workers]:
        return
    each = [{core} for core in sorted(cores)] if len(cores) == workers else [cores] * workers
    for member, some in zip(_members[workers], each, strict=True):
        os.sched_setaffinity(member, some)
    _placed[workers] = cores
