"""What holds for all tests of a process."""

import gc

import pytest
from hypothesis import settings

# The same examples every time, so that a run fails for what was changed and not for what was drawn.
# `make test-all` draws anew.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Some ten thousand tests are looked through by no collector again: each of its turns takes half as long."""
    gc.collect()
    gc.freeze()
