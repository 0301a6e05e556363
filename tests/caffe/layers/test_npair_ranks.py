"""The N-pair layer over 2 and 4 processes, against the original under MPI and against its definition."""

import json

import numpy as np
import pytest

from npair_oracle import has_digits, layer, problem, settings_of
from npair_ranks import Problem, run
from problems import golden_folder

CASES = [
    (path, dict(np.load(path))) for path in sorted((golden_folder / "losses" / "npair_ranks").glob("*.npz"))
]


def golden(world_size):
    """Every other configuration of the golden cases with this many ranks: (case, row of its parameters, problem)."""
    for _, case in CASES:
        config = json.loads(str(case["config"]))
        if config["world_size"] == world_size:
            for row in range(0, len(case["params"]), 2):
                for dtype in ("float32", "float64") if row % 10 == 0 else ("float32",):
                    counts = [config["N"]] * world_size
                    backend = "tiled" if row % 10 == 0 else "auto"
                    settings = settings_of(case["params"][row], config)
                    yield (
                        case,
                        row,
                        Problem(case["embeddings"], case["labels"], counts, settings, True, dtype, backend),
                    )


def uneven(world_size):
    """Batches of which ranks have different shares, one of them a single row."""
    for seed in range(16):
        counts = [1 + (seed + 3 * rank) % 5 for rank in range(world_size)]
        rows, labels, settings = problem(1000 + seed, sum(counts))
        yield Problem(rows, labels, counts, settings, parity=seed % 2 == 0)


def broken(world_size):
    """A number of the last rank is NaN or infinite."""
    for seed, wrong in enumerate((np.nan, np.inf)):
        rows, labels, settings = problem(2000 + seed, 3 * world_size)
        rows[-1, 0] = wrong
        yield Problem(rows, labels, [3] * world_size, settings, parity=seed % 2 == 0)


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def solved(request):
    """All problems of a world size, solved by one set of processes."""
    given, others = list(golden(request.param)), list(uneven(request.param))
    every = [*(known for _, _, known in given), *others, *broken(request.param)]
    answers = run(every, request.param)
    split = len(given)
    return given, [a[:split] for a in answers], others, [a[split:] for a in answers]


def test_a_number_that_is_not_finite_is_heard_of_on_all_ranks(solved):
    for of_rank in solved[3]:
        for found in of_rank[-2:]:
            assert np.isnan(found["tops"][:4]).all()
            assert np.isnan(found["grad"]).all()


def close(found, expected, scale=0.0):
    return np.abs(found - expected).max() <= 1e-5 * (np.abs(expected).max() + scale) + 1e-7


def test_original_under_mpi(solved):
    given, answers, _, _ = solved
    assert len(given) >= 25
    for number, (case, row, known) in enumerate(given):
        n, m = known.counts[0], len(known.rows)
        for rank, of_rank in enumerate(answers):
            found = of_rank[number]
            mask = np.unpackbits(case["selected_bits"][rank, row])[: n * m].reshape(n, m)
            assert (found["selected"] == mask).all(), (row, known.settings)
            assert found["tops"][0] == pytest.approx(float(case["loss"][rank, row]), rel=2e-6, abs=2e-6)
            assert found["tops"][1:4] == pytest.approx(case["retrieval"][rank, row].tolist(), abs=1e-6)
            assert found["tops"][4] == pytest.approx(float(case["feature_asum"][rank]), rel=1e-6)
            assert close(found["grad"], case["grad"][rank, row]), (row, known.settings)


def test_definition_with_uneven_ranks(solved):
    """In parity, and by default: then the gradient is that of the sum of the ranks' losses."""
    _, _, others, answers = solved
    compared = 0
    for number, known in enumerate(others):
        parts = [known.of(rank) for rank in range(len(known.counts))]
        expected = layer(
            [known.rows[p] for p in parts], [known.labels[p] for p in parts], known.settings, known.parity
        )
        if not all(map(has_digits, expected)):
            continue
        compared += 1
        for rank, wanted in enumerate(expected):
            found = answers[rank][number]
            assert (found["selected"] == wanted.selected).all(), known
            tops = [wanted.loss, *wanted.retrieval, wanted.asum]
            assert found["tops"] == pytest.approx(tops, rel=1e-5, abs=2e-6), known
            assert close(found["grad"], wanted.grad, scale=1e-2 * np.abs(known.rows).max()), known
    assert compared > 8
