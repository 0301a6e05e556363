"""The live line tells what a run has to tell, and nothing that it has not."""

from nearfar.train.live import Live

STEP = {
    "step": 10,
    "epoch": 0,
    "loss": 0.1,
    "active": 0.5,
    "positive_similarity": 0.3,
    "negative_similarity": 0.1,
    "spread": 0.6,
    "images_per_second": 100.0,
}
PAIRS = {"active_in_batch": 2.5, "active_in_memory": 40.0, "pairs_from_memory": 0.94}


def line(**more: float) -> str:
    return Live(100, 0, shown=False)._text(STEP | more)


def test_a_run_with_a_memory_tells_where_active_pairs_lie() -> None:
    told = line(**PAIRS, gradient_from_memory=0.85, memory_drift=0.97)
    assert (
        "spread 0.60  active pairs 2.5 + 40.0 of memory  gradient from memory 85%  drift 0.97  100 im" in told
    )


def test_a_run_without_one_does_not() -> None:
    assert "spread 0.60  100 images/s" in line()
    # No pair is active: there is no share of nothing.
    assert "memory" not in line(active_in_batch=0.0, active_in_memory=0.0)
