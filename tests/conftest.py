"""What holds for all tests of a process."""

import gc

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Some ten thousand tests are looked through by no collector again: each of its turns takes half as long."""
    gc.collect()
    gc.freeze()
