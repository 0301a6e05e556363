"""The cache: where packs, downloads and offline weights are kept, each made by one process and whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """$NEARFAR_CACHE, or ~/.cache/nearfar: where packs, downloads and offline weights are kept."""
    chosen = os.environ.get("NEARFAR_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "nearfar"


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Wait until no other process makes ``place``; the lock goes when the process ends, however it ends."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows: two processes may both build; the first one finished wins
        yield
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.with_name(f".{place.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def unfinished(place: Path) -> Iterator[Path]:
    """An empty folder beside ``place`` that becomes ``place`` when the block ends well, and goes otherwise.

    Call it inside ``alone(place)``: what an earlier process left half made is thrown away.
    """
    for left in place.parent.glob(f"{place.name}.*.tmp"):
        shutil.rmtree(left)
    # Named after this process: a worker that a killed one left behind cannot write into it.
    draft = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    draft.mkdir(parents=True)
    try:
        yield draft
        shutil.rmtree(place, ignore_errors=True)
        os.replace(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
