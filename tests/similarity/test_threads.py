"""Where the threads over tiles run."""

import os

import pytest

import rank_processes

AFFINITY = """
import os, threading, torch, nearfar
from nearfar.similarity.threads import in_threads
every = sorted(os.sched_getaffinity(0))
torch.set_num_threads(2)

def cores():
    meet = threading.Barrier(2)
    return in_threads(lambda _: (meet.wait(), sorted(os.sched_getaffinity(0)))[1], range(2), None)

for some in (every[:2], every[:1], every[1:2], every[:2]):
    os.sched_setaffinity(0, some)
    expected = [[core] for core in some] if len(some) == 2 else [some, some]
    assert sorted(cores()) == expected, (some, cores())
print("as expected")
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores to choose from",
)
def test_threads_go_where_the_caller_may_go(tmp_path):
    """Also when that changes after they have started."""
    assert rank_processes.printed(AFFINITY, tmp_path) == ["as expected"]
