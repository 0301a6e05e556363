"""What may go wrong on ranks, or be unusual, and is to cost nothing; for processes see tests/train/test_ranks.py."""

import pytest
import torch

import loss_ranks
import nearfar
from rank_failures import FAILURES, batches
from rank_troubles import rows

pytestmark = pytest.mark.filterwarnings("ignore:this batch has no positive pair")


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request):
    found = loss_ranks.run([], request.param, FAILURES)
    return [rank["troubles"] for rank in found]


def test_auto_gathers_as_long_as_that_fits(ranks):
    """Chosen by size is named: the same messages, the same numbers."""
    for rank in ranks:
        found = rank["exchanges"]
        assert "batch_isend_irecv" not in found["gather"]["sent"]
        assert found["ring"]["sent"].keys() >= {"batch_isend_irecv"}
        for name, chosen in (("gather", "auto, all fit"), ("ring", "auto, one byte short")):
            assert found[name]["sent"] == found[chosen]["sent"]
            assert torch.equal(found[name]["gradient"], found[chosen]["gradient"])
            assert torch.equal(found[name]["value"], found[chosen]["value"])
        torch.testing.assert_close(found["ring"]["gradient"], found["gather"]["gradient"])


def test_the_ring_sends_what_it_is_said_to(ranks):
    """supcon: rows for the positives and for the negatives, W - 1 hops; once more for each, with a gradient."""
    block, size = 6 * 4, len(ranks)
    for rank in ranks:
        sent = rank["exchanges"]["ring"]["sent"]["batch_isend_irecv"]
        assert sum(sent) == block * 6 * (size - 1)


def test_ranks_that_come_when_they_like_end_with_the_same_weights(ranks):
    for rank in ranks:
        assert torch.equal(rank["jitter"]["jittered"], ranks[0]["jitter"]["jittered"])
        assert torch.equal(rank["jitter"]["jittered"], rank["jitter"]["calm"])


def test_a_step_with_nan_may_be_left_out(ranks):
    for rank in ranks:
        assert rank["skipped"]["with"].isfinite().all()
        assert torch.equal(rank["skipped"]["with"], ranks[0]["skipped"]["without"])


def test_a_rank_may_have_a_batch_more(ranks):
    """One process with the rows of all, the last batch that of rank 0 alone."""
    parts = [batches(rank, 3 if rank == 0 else 2) for rank in range(len(ranks))]
    torch.manual_seed(0)
    net, loss = torch.nn.Linear(4, 3), nearfar.losses.create("supcon")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        given = [part[step] for part in parts if step < len(part)]
        optimizer.zero_grad()
        loss(net(torch.cat([x for x, _ in given])), torch.cat([labels for _, labels in given])).backward()
        optimizer.step()
    for rank in ranks:
        assert torch.equal(rank["one_batch_more"], ranks[0]["one_batch_more"])
        torch.testing.assert_close(rank["one_batch_more"], net.weight.detach())


def test_a_group_of_ranks_shares_a_batch(ranks):
    size = len(ranks) // 2
    for rank, found in enumerate(ranks):
        assert found["groups"].pop("world") == size
        first = rank // size * size
        parts = [rows(k) for k in range(first, first + size)]
        labels = torch.cat([labels for _, labels in parts])
        for name, (value, gradient) in found["groups"].items():
            x = torch.cat([x for x, _ in parts]).requires_grad_()
            alone = nearfar.losses.create(name.split()[0])(x, labels)
            (whole,) = torch.autograd.grad(alone, x)
            torch.testing.assert_close(value, alone.detach())
            own = size * whole[6 * (rank - first) :][:6]
            torch.testing.assert_close(gradient, own, rtol=1e-4, atol=1e-6)


def test_a_rank_outside_of_its_group_is_told(ranks):
    *inside, outside = [rank["outside"] for rank in ranks]
    assert not any(inside)
    assert outside.startswith(f"settings.group does not hold this process, rank {len(inside)} of all")
