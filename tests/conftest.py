"""What holds for all tests of a process."""

import gc

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Some ten thousand tests are looked through by no collector again: each of its turns takes half as long."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def device() -> str:
    """A device that is not the CPU; see tests/pretend_device.py."""
    import pretend_device

    return pretend_device.NAME
