"""A memory sharded over ranks is the memory of one process: values, gradients, contents, checkpoints."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import loss_ranks
import nearfar
from memory_rows import rows
from memory_troubles import (
    FILLED,
    SIZES,
    STEPS,
    TROUBLES,
    N,
    contents_by_the_other,
    problems,
    share,
    state,
    steps,
)
from nearfar.losses import Sum
from one_process import check
from ranked_problems import Case, dealt

pytestmark = pytest.mark.filterwarnings("ignore:this batch has no positive pair")
RANKS = (2, 4)


def cases(world_size: int) -> list[Case]:
    """Every second problem on two ranks, so each loss, and every fifth on four; cuts and exchanges in turns."""
    told = [*problems(all_rules=False)][:: {2: 2, 4: 5}[world_size]]
    return dealt(told, world_size, ("gather", "ring"))


def whole(some: list[Case]) -> list[Case]:
    """The same problems, with a memory that is not sharded: what one process is asked."""
    return [replace(case, memory={**(case.memory or {}), "sharded": False}) for case in some]


@pytest.fixture(scope="module", params=RANKS)
def found(request):
    some = cases(request.param)
    return some, loss_ranks.run(some, request.param, TROUBLES)


@pytest.fixture
def troubles(found) -> list[dict[str, Any]]:
    return [rank["troubles"] for rank in found[1]]


def test_values_and_gradients_are_those_of_one_process(found):
    some, ranks = found
    assert {case.memory["size"] for case in some} >= set(SIZES)
    check(whole(some), ranks)


@pytest.mark.exhaustive
@pytest.mark.parametrize("exchange", ["gather", "ring"])
@pytest.mark.parametrize("all_rules", [False, True], ids=["every problem", "every loss with every rule"])
@pytest.mark.parametrize("world_size", RANKS)
def test_everything(world_size, all_rules, exchange):
    some = dealt([*problems(all_rules=all_rules)], world_size, (exchange,))
    check(whole(some), loss_ranks.run(some, world_size, {}))


def alone(size: int, first: int = 0) -> dict[str, Any]:
    return steps(nearfar.CrossBatchMemory(size), first, STEPS)


def near(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12, equal_nan=True)


def assert_same_steps(one: dict[str, Any], ranks: list[dict[str, Any]], first: int = 0) -> None:
    """Whether values, gradients, drift and contents are those of one process, on every rank."""
    for step, expected in enumerate(one["steps"]):
        parts = [found["steps"][step] for found in ranks]
        near(torch.cat([part["gradient"] for part in parts]), expected["gradient"])
        for part in parts:
            near(part["value"], expected["value"])
            near(part["drift"], expected["drift"])
    for found in ranks:
        assert_same_state(one["state"], found["state"])


def assert_same_state(one: dict[str, Any], other: dict[str, Any]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("size", FILLED)
def test_contents_after_wrapping_round(troubles, size):
    """210 rows of two and more turns, and each rank holds one part: ⌈M/W⌉ rows at most."""
    check_contents([rank["contents"][size] for rank in troubles], size)


@pytest.mark.exhaustive
@pytest.mark.parametrize("world_size", RANKS)
def test_contents_by_the_other_exchange(world_size):
    ranks = loss_ranks.run([], world_size, {"contents": contents_by_the_other})
    for size in FILLED:
        check_contents([rank["troubles"]["contents"][size] for rank in ranks], size)


def check_contents(ranks: list[dict[str, Any]], size: int) -> None:
    expected, world_size = alone(size), len(ranks)
    assert not expected["steps"][-1]["drift"].isnan()
    assert_same_steps(expected, ranks)
    for own, found in enumerate(ranks):
        gathered = found["exchange"] == "gather"
        for one, other in zip(found["steps"], found.get("plain", []), strict=gathered):
            assert torch.equal(one["value"], other["value"])
            assert torch.equal(one["gradient"], other["gradient"])
        held = len(range(own, size, world_size))
        assert set(found["rows"].values()) == {held}
        assert held <= -(-size // world_size)
        assert found["bytes"] == held * 8 * 8


def begun() -> nearfar.CrossBatchMemory:
    memory = nearfar.CrossBatchMemory(51)
    for step in range(4):
        memory.add(*share(step, 0, 1))
    memory.step = 4
    return memory


def test_a_checkpoint_moves_between_numbers_of_ranks(troubles):
    """From 1 to W; from W to W, sharded and not; below, from each W to 1 and to the other."""
    memory = begun()
    first = state(memory)
    expected = steps(memory, 4, STEPS)
    for name in ("sharded", "whole", "again"):
        assert_same_steps(expected, [rank["moved"][name] for rank in troubles])
    for rank in troubles:
        assert_same_state(rank["moved"]["saved"], first)
        resumed = nearfar.CrossBatchMemory(51, sharded=True)
        resumed.load_state_dict(rank["moved"]["saved"])
        found = steps(resumed, 4, STEPS)
        assert_same_steps(expected, [found])


def test_rows_added_by_hand(troubles):
    memory = nearfar.CrossBatchMemory(9)
    memory.add(*rows(5, 0))
    memory.add(*rows(7, 1))
    for rank in troubles:
        assert_same_state(state(memory), rank["added_by_hand"])


def test_half_precision_leaves_out_what_it_cannot_hold(troubles):
    memory = nearfar.CrossBatchMemory(20, dtype=torch.float16)
    x, labels, ids = share(1, 0, 1)
    x = torch.where(ids[:, None] % 5 == 0, 7e4, x)
    nearfar.losses.create("supcon")(x.requires_grad_(), labels, ids=ids, memory=memory)
    assert 0 < memory.added < N
    for rank in troubles:
        assert_same_state(state(memory), rank["half_precision"])


def test_outside_training_it_is_read(troubles):
    memory, loss, expected = nearfar.CrossBatchMemory(30), nearfar.losses.create("supcon"), []
    for step, training in enumerate([True, False, False]):
        x, labels, ids = share(step, 0, 1)
        value = loss.train(training)(x.requires_grad_(), labels, ids=ids, memory=memory)
        expected += [value.detach(), len(memory), memory.step]
    for rank in troubles:
        torch.testing.assert_close(rank["outside_training"], expected)


def test_a_sum_of_losses_stores_once(troubles):
    expected = []
    for told in ({}, {"combine": "memory", "enqueue": "before"}):
        losses, memory = Sum({"supcon": 1.0, "contrastive": 0.5}), nearfar.CrossBatchMemory(33, **told)
        for step in range(3):
            x, labels, ids = share(step, 0, 1)
            value = losses(x.requires_grad_(), labels, ids=ids, memory=memory)
            expected += [value.detach(), torch.tensor(len(memory))]
    for rank in troubles:
        torch.testing.assert_close(rank["sum_of_losses"], expected)


def test_auto_counts_the_memory(troubles):
    for rank in troubles:
        assert rank["beyond_the_budget"] == [0, 2]


def test_no_rank_sees_all_rows_in_the_ring(troubles):
    """Neither to compare with nor to store; without ``sharded`` each step puts them together."""
    for rank in troubles:
        assert rank["seen_in_the_ring"] == [0, 3]


SENTENCES = {
    "kept_to_a_rank": "NearfarError: this memory is sharded over ranks and across_ranks=False keeps a loss",
    "sharded_on_some": "NearfarError: rank 0 calls a loss with a memory of 9 embeddings but rank {last} with a "
    "memory of 9 embeddings, sharded over ranks;",
    "another_size": "NearfarError: rank 0 calls a loss with a memory of 9 embeddings, sharded over ranks but "
    "rank {last} with a memory of 10 embeddings, sharded over ranks;",
    "another_type": "NearfarError: rank 0 calls a loss with a memory with its own settings but rank {last}",
    "another_batch": "NearfarError: this memory holds embeddings of 8 dimensions but the batch has 3;",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_all_ranks_say_the_same(troubles, name):
    said = {rank[name] for rank in troubles}
    assert len(said) == 1
    assert said.pop().startswith(SENTENCES[name].format(last=len(troubles) - 1))


def test_a_part_of_other_ranks_is_refused(monkeypatch):
    memory = nearfar.CrossBatchMemory(9, sharded=True)
    memory.add(*rows(5, 0))
    monkeypatch.setattr("nearfar.memory.refusals.world_size", lambda: 2)
    with pytest.raises(
        nearfar.errors.NearfarError, match="was filled as rank 0 of 1 and is used as rank 0 of 2"
    ):
        memory.state_dict()


def test_one_process_holds_all():
    """Bit for bit what it is without ``sharded``."""
    found = [steps(nearfar.CrossBatchMemory(51, sharded=told), 0, STEPS) for told in (False, True)]
    for one, other in zip(*(each["steps"] for each in found), strict=True):
        assert torch.equal(one["value"], other["value"])
        assert torch.equal(one["gradient"], other["gradient"])
    assert_same_state(*(each["state"] for each in found))
