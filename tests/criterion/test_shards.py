"""Classes shared out over ranks: values, gradients, draws, checkpoints and training are those of one process."""

from dataclasses import replace

import pytest
import torch

import class_ranks
import nearfar
from class_ranks import CUTS, Beside, Case, Model, batch, cases, optimizers, part, solved
from nearfar.criterion.ranks.shard import Shard

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-6}
# Of the cases, each so-many-th on so many ranks: every loss on two.
EVERY = {1: 8, 2: 3, 4: 5}
_known: dict[str, dict[str, torch.Tensor]] = {}
_rounding: dict[str, dict[str, float]] = {}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """4, 2 and 1 processes, of which the later go on from the checkpoint of those before."""
    folder = tmp_path_factory.mktemp("shards")
    return {size: class_ranks.run(size, folder, EVERY[size]) for size in (4, 2, 1)}


def expected(case: Case) -> dict[str, torch.Tensor]:
    if case.key not in _known:
        _known[case.key] = solved(Model(case, sharded=False), batch(case))
    return _known[case.key]


def exactly(case: Case) -> dict[str, torch.Tensor]:
    """The same in float64, from the numbers that the case has."""
    key = f"exact {case.key}"
    if key not in _known:
        given = [x.double() if x.is_floating_point() else x for x in batch(case)]
        _known[key] = solved(Model(case, sharded=False).double(), given)
    return _known[key]


def rounding(case: Case) -> dict[str, float]:
    """How far one process is from that, whichever backend is farther: 0 in float64."""
    if case.key not in _rounding:
        backends = [replace(case, create={**case.create, "backend": name}) for name in ("dense", "tiled")]
        alone = [expected(one) for one in backends] if case.dtype == torch.float32 else []
        _rounding[case.key] = {
            key: max([0.0, *(float((one[key] - value).abs().max()) for one in alone)])
            for key, value in exactly(case).items()
        }
    return _rounding[case.key]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_equal_one_process(ranks, size):
    check(cases(size, EVERY[size]), ranks[size])


@pytest.mark.exhaustive
def test_everything(tmp_path):
    for size in (4, 2, 1):
        check(cases(size), class_ranks.run(size, tmp_path))


def check(some: list[Case], ranks: list[dict]) -> None:
    """In float32 ranks add up in another order: they are as near to float64 as one process is."""
    torch.set_num_threads(1)
    wrong, size = [], len(ranks)
    for place, case in enumerate(some):
        alone = exactly(case)
        for rank, found in enumerate(ranks):
            assert found["cases"][place].keys() == alone.keys()
            for key, value in alone.items():
                averaged = case.gradients == "sum" and key == "net.weight"
                other = found["cases"][place][key] * (size if averaged else 1)
                apart = float((other - value).abs().max())
                bound = BOUNDS[case.dtype] * max(float(value.abs().max()), 1e-3)
                if not apart <= bound + 2 * rounding(case)[key]:
                    wrong.append(f"{case}: rank {rank}, {key} is {apart:.1e} apart")
    assert not wrong, "\n".join(wrong[:20])


def test_a_run_of_the_classes_for_each_rank(ranks):
    assert [rank["counts"] for rank in ranks[1]] == [[9, 21, 24]]
    assert [rank["counts"] for rank in ranks[2]] == [[3, 9, 12], [6, 12, 12]]
    assert [rank["counts"] for rank in ranks[4]] == [[0, 3, 6], [3, 6, 6], [3, 6, 6], [3, 6, 6]]
    for size in (1, 2, 3, 7, 11):
        runs = [Shard(7, 1, rank, size) for rank in range(size)]
        assert [c for run in runs for c in range(run.start, run.stop)] == list(range(7))
        assert all(run.counts == [r.stop - r.start for r in runs] for run in runs)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_training_starts_from_the_vectors_of_one_process(ranks, size):
    torch.manual_seed(7)
    proxies, following = nearfar.losses.create("proxy_nca", classes=9, dim=3).proxies, torch.rand(1)
    for rank, found in enumerate(ranks[size]):
        alike, after, apart, own = found["draws"]
        assert torch.equal(alike, proxies)
        assert torch.equal(apart, proxies)
        assert torch.equal(after, following)
        if rank:
            torch.manual_seed(7 + rank)
            assert torch.equal(own, torch.rand(1))


@pytest.mark.parametrize("size", [2, 4])
def test_values_one_by_one(ranks, size):
    for name, by_class in (("arcface", False), ("proxy_anchor", True)):
        case = Case(name, create={"reduction": "none"})
        with torch.no_grad():
            values = Model(case, sharded=False)(*batch(case))
        whole = [rank["values_one_by_one"][name] for rank in ranks[size]]
        if not by_class:
            assert [len(x) for x in whole] == CUTS[size][-1]
        torch.testing.assert_close(torch.cat(whole), values)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_statistics_are_of_a_ranks_own_classes(ranks, size):
    case = Case("arcface")
    model = Model(case, sharded=False)
    model(*batch(case))
    x, labels = batch(case)
    unit = torch.nn.functional.normalize
    s = (unit(model.net(x)) @ unit(model.loss.proxies).mT).detach()
    here = s[:, : 6 // size]
    others = labels[:, None] != torch.arange(6 // size)
    own = [s[torch.arange(24), labels].mean(), here[others].mean(), 1.0]
    torch.testing.assert_close(ranks[size][0]["statistics"], [float(x) for x in own])


SENTENCES = {
    "label": "label 9 is not among the 9 classes that proxy_nca was created for.",
    "mixed": "rank 0 calls a loss with the name proxy_nca and sharded=True but rank 1 with the name proxy_nca and sharded=False",
    "ranks": "proxy_nca was created with sharded=True on {more} ranks and is used on {size};",
    "classes": "proxies has 8 vectors but the loss has 9, on all ranks together; load",
    "alone": "sharded=True shares the classes out over the ranks, and across_ranks=False keeps a loss within",
    "no_proxies": "supcon has no proxies that ranks could share out; create it without sharded.",
}


@pytest.mark.parametrize("name", SENTENCES)
@pytest.mark.parametrize("size", [2, 4])
def test_what_is_wrong_is_said_on_all_ranks(ranks, size, name):
    (said,) = {rank["sentences"][name] for rank in ranks[size]}
    assert said.startswith(SENTENCES[name].format(size=size, more=size + 1))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_training_goes_on_with_fewer_ranks(ranks, name):
    """Steps 0 and 1 on four ranks, 2 and 3 on two, 4 and 5 on one: as all six on one."""
    torch.set_num_threads(1)
    model = Beside(sharded=False)
    optimizer = optimizers(model)[name]
    for size in (4, 2, 1):
        start = {4: 0, 2: 2, 1: 4}[size]
        class_ranks.train(model, model, optimizer, range(start, start + 2), lambda given: given)
        for rank in ranks[size]:
            kept = rank["training"][name]
            assert kept["model"].keys() == model.state_dict().keys()
            for key, value in model.state_dict().items():
                torch.testing.assert_close(kept["model"][key], value, rtol=1e-10, atol=1e-12)
            for number, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    torch.testing.assert_close(
                        kept["optimizer"]["state"][number][key], value, rtol=1e-10, atol=1e-12
                    )


def test_in_one_process_it_changes_nothing():
    for case in (Case("arcface"), Case("proxy_anchor", 30, 4, create={"sample": 0.3})):
        model = Model(case, sharded=True)
        assert "sharded=True" in repr(model.loss)
        found = solved(model, part(CUTS[1][0], 0, batch(case)))
        for key, value in expected(case).items():
            assert torch.equal(found[key], value)
