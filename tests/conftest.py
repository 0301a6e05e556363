"""What holds for all tests of a process."""

import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# The same examples every time, so that a run fails for what was changed and not for what was drawn.
# `make test-all` draws anew.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Some ten thousand tests are looked through by no collector again: each of its turns takes half as long."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def device() -> Iterator[str]:
    """A device that is not the CPU; see tests/pretend_device.py."""
    import pretend_device

    # Torch has a thread for the gradients of each device that there was at the first gradient of a process.
    with torch.autograd.set_multithreading_enabled(False):
        yield pretend_device.NAME
