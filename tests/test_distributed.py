"""Rows of all ranks: values, the sum of all ranks' gradients, and one process alone."""

import pytest
import torch

import gathering_ranks
from nearfar.distributed import gather_rows, rank, row_counts, world_size


def test_one_process_alone():
    x = torch.randn(3, 2)
    assert (rank(), world_size(), row_counts(x)) == (0, 1, [3])
    assert gather_rows(x) is x


@pytest.fixture(scope="module")
def gathered():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(n, 4, generator=generator) for n in (3, 1)]
    weights = [torch.randn(4, 4, generator=generator) for _ in rows]
    return rows, weights, gathering_ranks.run(rows, weights)


def test_every_rank_has_all_rows_in_rank_order(gathered):
    rows, _, ranks = gathered
    for k, found in enumerate(ranks):
        assert (found["rank"], found["world_size"], found["counts"]) == (k, 2, [3, 1])
        assert (found["every"] == torch.cat(rows)).all()


def test_gradient_is_the_sum_of_what_all_ranks_do_with_a_row(gathered):
    _, weights, ranks = gathered
    torch.testing.assert_close(torch.cat([found["grad"] for found in ranks]), weights[0] + weights[1])


def test_rows_that_differ_are_refused(gathered):
    _, _, ranks = gathered
    assert ranks[0]["sentence"] == (
        "rank 0 has rows of 3 numbers of 4 bytes but rank 1 has 4 of 4 bytes; all ranks need the same kind of rows."
    )
