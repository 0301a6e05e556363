"""What holds for all tests of a process."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import none

# The same examples every time, so that a run fails for what was changed and not for what was drawn.
# `make test-all` draws anew.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

# What takes longest, the longest first: what begins last is short, so that no process waits for another.
LONGEST = (
    "train/test_ranks.py",
    "criterion/test_ranks.py",
    "test_examples.py",
    "memory/test_memory_ranks.py",
    "losses/test_laws.py",
    "train/test_resume.py",
    "losses/test_extremes.py",
    "test_bench.py",
    "similarity/test_reductions.py",
    "train/test_signals.py",
    "criterion/test_copies.py",
    "evaluate/test_sharded.py",
    "caffe/layers/test_npair.py",
    "criterion/test_shards.py",
    "train/test_large_batch.py",
    "test_platforms.py",
    "report/test_report_browser.py",
    "memory/test_memory_laws.py",
    "data/test_packs.py",
)
PLACES = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
assert all(path.exists() for path in PLACES)


def pytest_configure(config: pytest.Config) -> None:
    """Give files to processes in their order, not those of many tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: PLACES.get(item.path, len(PLACES)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Some ten thousand tests are looked through by no collector again: each of its turns takes half as long."""
    given(none())(
        lambda _: None
    )()  # it makes its generator, whose holder it does not find once that is frozen
    gc.collect()
    gc.freeze()


@pytest.fixture
def device() -> Iterator[str]:
    """A device that is not the CPU; see tests/pretend_device.py."""
    import pretend_device

    # Torch has a thread for the gradients of each device that there was at the first gradient of a process.
    with torch.autograd.set_multithreading_enabled(False):
        yield pretend_device.NAME
