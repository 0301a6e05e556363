"""Losses over several ranks equal one process: values, gradients, weights of losses; and one verdict for all."""

import re

import pytest
import torch

import loss_ranks
import nearfar
import rank_troubles
from nearfar.losses import Sum
from one_process import check
from ranked_problems import CUTS, Case, cases, creations, some_cases

pytestmark = pytest.mark.filterwarnings("ignore:this batch has no positive pair")


@pytest.fixture(scope="module")
def two():
    some = some_cases(2, ("gather", "ring"))
    return some, loss_ranks.run(some, 2)


@pytest.fixture(scope="module")
def four():
    some = some_cases(4, ("ring", "gather"))
    return some, loss_ranks.run(some, 4)


def test_two_ranks_equal_one_process(two):
    check(*two)


def test_four_ranks_equal_one_process(four):
    check(*four)


@pytest.mark.exhaustive
@pytest.mark.parametrize("exchange", ["gather", "ring"])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_everything(world_size, exchange):
    some = cases(world_size, (exchange,))
    check(some, loss_ranks.run(some, world_size))


@pytest.mark.exhaustive
@pytest.mark.parametrize("exchange", ["gather", "ring"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_every_loss_with_every_rule_in_float32(world_size, exchange):
    some = [Case(cut=[], create=create, dtype=torch.float32) for create in creations()]
    for place, case in enumerate(some):
        case.cut, case.settings = CUTS[world_size][place % 4], {"exchange": exchange}
    check(some, loss_ranks.run(some, world_size, {}))


@pytest.mark.exhaustive
@pytest.mark.parametrize("world_size", [2, 4])
def test_every_loss_with_every_rule_in_a_sharded_module(world_size):
    """Network and loss in one ``fully_shard`` (FSDP2)."""
    some = [Case(cut=[], create=create, engine="fsdp") for create in creations()]
    for place, case in enumerate(some):
        case.cut = CUTS[world_size][place % 4]
        case.settings = {"exchange": ("gather", "ring")[place % 2]}
    check(some, loss_ranks.run(some, world_size, {}))


SENTENCES = {
    "dimensions": "NearfarError: rank 0 calls a loss with embeddings of 4 dimensions but rank {last} with embeddings of 5",
    "types": "NearfarError: rank 0 calls a loss with embeddings of torch.float32 but rank {last} with embeddings of torch.float64",
    "too_few_labels": "NearfarError: rank {last}: labels has 4 rows but embeddings has 6; give one label for each embedding.",
    "no_tensor": "NearfarError: rank {last}: embeddings must be a torch tensor; got NoneType.",
    "other_labels": "NearfarError: rank 0 calls a loss with labels that are classes but rank {last} with labels of 3 tags",
    "ids_on_some": "NearfarError: rank 0 calls a loss with no ids but rank {last} with ids",
    "other_loss": "NearfarError: rank 0 calls a loss with the name supcon and sharded=False but rank {last} with the name ntxent",
    "unknown_class": "NearfarError: label 5 is not among the 3 classes that proxy_nca was created for.",
    "one_by_one": "NearfarError: rank {last}: reduction='none' leaves the averaging to the caller",
    "learned_weights": "NearfarError: rank {last}: weights wants a gradient, which is not computed across ranks",
    "other_memory": "NearfarError: rank 0 calls a loss with a memory that has taken in 0 embeddings but rank {last} with a memory",
    "other_exchange": "rank 0 calls a loss with settings.exchange = 'gather' but rank {last} with settings.exchange = 'ring'",
}


@pytest.fixture(params=["two", "four"])
def troubles(request):
    _, ranks = request.getfixturevalue(request.param)
    return [rank["troubles"] for rank in ranks]


@pytest.mark.parametrize("name", ["not_finite", "learned_is_not_finite"])
def test_a_bad_row_of_one_rank_is_heard_of_on_all(troubles, name):
    for rank in troubles:
        assert len(rank[name]) > 1
        for what, (value, *gradients) in rank[name].items():
            assert value.isnan(), what
            assert gradients, what
            assert not any(gradient.isfinite().any() for gradient in gradients), what


def test_a_memory_of_ranks_has_the_other_rows(troubles):
    whole = [rank_troubles.rows(k)[0] for k in range(len(troubles))]
    for x in whole:
        x[2, 1] = 0.0
    whole[-1] = whole[-1][[0, 1, 3, 4, 5]]
    expected = torch.cat([*whole, *whole])
    for rank in troubles:
        for what, (values, count, stored) in rank["memory_without_broken_rows"].items():
            assert all(value.isnan() for value in values), what
            assert count == len(expected), what
            assert torch.equal(stored, expected), what


@pytest.mark.parametrize("name", SENTENCES)
def test_all_ranks_say_the_same(troubles, name):
    said = {rank[name] for rank in troubles}
    assert len(said) == 1
    begins = SENTENCES[name].format(last=len(troubles) - 1, ranks=len(troubles))
    assert said.pop().startswith(begins)


def put_together(ranks: int, **size) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [rank_troubles.rows(rank, **size) for rank in range(ranks)]
    return torch.cat([x for x, _ in parts]), torch.cat([labels for _, labels in parts])


def test_values_one_by_one_without_gradient(troubles):
    for name in ("supcon", "clip"):
        sums, counts, means = torch.stack([rank["values_without_gradient"][name] for rank in troubles]).T
        assert counts.tolist() == [3 + rank for rank in range(len(troubles))]
        torch.testing.assert_close(means, (sums.sum() / counts.sum()).expand_as(means))


def test_a_rank_may_keep_to_itself(troubles):
    assert troubles[-1]["local"] < 1e-6


def test_a_rank_may_skip_the_backward_pass(troubles):
    for rank in troubles:
        torch.testing.assert_close(rank["no_backward"], troubles[0]["no_backward"][:1].expand(6))


def test_a_gradient_that_one_rank_wants(troubles):
    x, labels = put_together(len(troubles))
    x.requires_grad_()
    (whole,) = torch.autograd.grad(nearfar.losses.create("supcon")(x, labels), x)
    torch.testing.assert_close(troubles[-1]["gradient_on_one_rank"], len(troubles) * whole[-6:])


def test_rank_0_warns_once_where_nobody_has_a_positive(troubles):
    for rank, found in enumerate(troubles):
        assert len(found["warns_once"]) == (rank == 0)
        assert all(text.startswith("this batch has no positive pair: its") for text in found["warns_once"])


def test_no_rows_anywhere(troubles):
    for rank in troubles:
        assert all(value == 0 for value in rank["none_anywhere"].values())


def test_every_rank_remembers_what_one_process_would(troubles):
    memory, loss = nearfar.CrossBatchMemory(10), nearfar.losses.create("supcon")
    for step in range(3):
        parts = [rank_troubles.rows(rank + 10 * step, n=3 + rank) for rank in range(len(troubles))]
        x, labels = torch.cat([x for x, _ in parts]), torch.cat([labels for _, labels in parts])
        loss(x.requires_grad_(), labels, memory=memory)
    state = memory.state_dict()
    for rank in troubles:
        for key, value in rank["memory_contents"].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(state[key])), key


def test_a_sum_of_losses_with_a_memory(troubles):
    torch.manual_seed(0)
    losses = Sum({"supcon": 1.0, "proxy_nca": 0.5, "uniformity": 0.1}, classes=3, dim=4)
    memory, ranks = nearfar.CrossBatchMemory(20), len(troubles)
    for step in range(2):
        parts = [rank_troubles.rows(rank + 10 * step) for rank in range(ranks)]
        x, labels = torch.cat([x for x, _ in parts]).requires_grad_(), torch.cat([y for _, y in parts])
        value = losses(x, labels, memory=memory)
    (gradient,) = torch.autograd.grad(value, x)
    for rank, found in enumerate(troubles):
        torch.testing.assert_close(found["sum_of_losses"]["value"], value.detach())
        own = ranks * gradient[6 * rank : 6 * rank + 6]
        torch.testing.assert_close(found["sum_of_losses"]["gradient"], own, rtol=1e-4, atol=1e-6)
        assert found["sum_of_losses"]["stored"] == len(memory)


def test_half_precision_travels_as_it_is(troubles):
    x, labels = put_together(len(troubles))
    x = x.bfloat16().requires_grad_()
    (whole,) = torch.autograd.grad(len(troubles) * nearfar.losses.create("supcon")(x, labels), x)
    for rank, found in enumerate(troubles):
        for exchange in ("gather", "ring"):
            own = whole[6 * rank : 6 * rank + 6]
            torch.testing.assert_close(found["half_precision"][exchange], own, rtol=0.01, atol=1e-3)


def test_weights_that_go_apart_are_told_once(troubles):
    """Rank 0 says it, with what helps; where an engine averages them, or nothing should, there is nothing to say."""
    first, *others = [rank["weights_that_go_apart"] for rank in troubles]
    for case in ("alone", "drawn apart"):
        (sentence,) = first[case]
        assert re.match(
            r"the weights of \w+ on rank 0 are not those on rank 1: nothing averages them", sentence
        )
        assert "DistributedDataParallel(nn.ModuleDict(" in sentence
    assert not any(first[case] for case in ("other seeds", "wrapped", "frozen", "shared out", "no weights"))
    assert not any(said for rank in others for said in rank.values())


def test_one_batch_on_two_ranks_is_told_once(troubles):
    first, *others = [rank["one_batch_on_two_ranks"] for rank in troubles]
    for case, what in [
        ("every step", "rows"),
        ("in another order", "rows"),
        ("other pictures of the same things", "ids"),
    ]:
        (sentence,) = first[case]
        assert sentence.startswith(f"ranks 0 and 1 gave supcon the same {what}: one batch is there twice.")
    assert not first["its own"]
    assert not first["nothing"]
    assert not any(said for rank in others for said in rank.values())
