"""The tiled backend: several tiles, any tile size, any number of threads, and the digits of float32."""

import random
import time

import pytest
import torch

import nearfar
import rank_processes
from nearfar.pairs import Pairs
from nearfar.similarity import (
    ArgMax,
    Count,
    HingeSum,
    LogSumExp,
    Max,
    Min,
    OrderStatistic,
    SoftMean,
    SoftplusSum,
    Sum,
    TopK,
)
from nearfar.similarity.threads import in_turn
from nearfar.similarity.tiled import block as tiled
from nearfar.similarity.tiled import ranked_steps, similarities, softmax_steps, two_passes
from problems import PAIR_LOSSES, batch
from turns import in_turns


def value_and_gradient(create: dict, x, labels, **call):
    loss = nearfar.losses.create(**create)
    x = x.clone().requires_grad_()
    value = loss(x, labels, **call)
    (grad,) = torch.autograd.grad(value, x)
    return value.detach(), grad


@in_turns(
    4,
    kept=[0, two_passes.KEPT],
    size=[16, 50, 512],
    mining=[None, "hard", "semi_hard", "multi_similarity"],
    name=["supcon", "triplet", "contrastive", "lifted_structure_generalized"],
)
def test_tile_size_changes_nothing(monkeypatch, size, kept, mining, name):
    """Ragged tiles at the ends, classes across tiles; 211 rows."""
    monkeypatch.setattr(two_passes, "KEPT", kept)
    monkeypatch.setattr(tiled, "TILE", size)
    x, labels = batch(41, 5, 9, spread=0.9)
    x, labels = torch.cat([x, batch(6, 1, 9, seed=5)[0]]), torch.cat([labels, torch.full((6,), 77)])
    dense = value_and_gradient({"name": name, "mining": mining, "backend": "dense"}, x, labels)
    ours = value_and_gradient({"name": name, "mining": mining, "backend": "tiled"}, x, labels)
    torch.testing.assert_close(ours[0], dense[0], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(ours[1], dense[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "measure"), [(name, "cosine") for name in PAIR_LOSSES] + [("supcon", "euclidean")]
)
def test_tiles_that_are_kept_and_tiles_made_again_give_the_same_bits(monkeypatch, name, measure):
    monkeypatch.setattr(tiled, "TILE", 32)
    x, labels = batch(60, 4, 16)
    create = {"name": name, "similarity": measure, "backend": "tiled"}
    kept = value_and_gradient(create, x.float(), labels)
    monkeypatch.setattr(two_passes, "KEPT", 0)
    made = value_and_gradient(create, x.float(), labels)
    assert torch.equal(kept[0], made[0])
    assert torch.equal(kept[1], made[1])


@pytest.mark.parametrize("fits", [True, False])
def test_tiles_are_kept_where_all_of_them_take_few_bytes(monkeypatch, fits):
    made, tile = [], similarities.Inner.tile
    monkeypatch.setattr(similarities.Inner, "tile", lambda self, i, j: made.append(i) or tile(self, i, j))
    monkeypatch.setattr(tiled, "TILE", 32)
    monkeypatch.setattr(
        two_passes, "KEPT", 240 * (240 + 30) // 2 * 8 - (0 if fits else 1)
    )  # blocks of 30 rows
    x, labels = batch(60, 4, 16)
    value_and_gradient({"name": "supcon", "backend": "tiled"}, x, labels)
    assert len(made) == (36 if fits else 72)


@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
@pytest.mark.parametrize("name", ["supcon", "triplet", "multi_similarity"])
def test_any_number_of_threads_gives_the_same_bits(monkeypatch, name, measure):
    monkeypatch.setattr(tiled, "TILE", 32)
    x, labels = batch(60, 4, 16)
    x = x.float()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            create = {"name": name, "similarity": measure, "backend": "tiled"}
            results.append(value_and_gradient(create, x, labels))
    finally:
        torch.set_num_threads(before)
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(grad, results[0][1])


@pytest.mark.parametrize("temperature", [0.005, 0.02, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_temperature(temperature, dtype):
    """Exponents span 2 / 0.005 · log₂ e = 577 powers of two, of which float32 has 250."""
    x, labels = batch(30, 3, 4, spread=0.3)
    create = {"name": "supcon", "temperature": temperature}
    exact = value_and_gradient({**create, "backend": "reference"}, x, labels)
    ours = value_and_gradient({**create, "backend": "tiled"}, x.to(dtype), labels)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-4  # similarities of float32, over the temperature
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours[1].double(), exact[1], rtol=tolerance, atol=tolerance)


def test_rows_that_follow_their_own_exponent(monkeypatch):
    """Each softmax reduction, with and without bounds, on the path for exponents that span too much."""
    x, labels = batch(20, 3, 5)
    reductions = [
        LogSumExp(scale=9.0, shift=0.2),
        SoftMean(scale=-7.0),
        LogSumExp(scale=5.0, floor=-0.2, shift=0.1),
    ]
    above = torch.linspace(-0.5, 0.5, len(x), dtype=x.dtype)
    for bounds in ({}, {"above": above, "below": above + 0.7}):
        results = []
        for limit in (900.0, 0.0):
            monkeypatch.setitem(softmax_steps.DEEPEST, torch.float64, limit)
            monkeypatch.setitem(softmax_steps.HIGHEST, torch.float64, limit)
            z = x.clone().requires_grad_()
            values = Pairs.within(z, labels, backend="tiled").narrow(**bounds).stream(*reductions)
            total = sum(torch.where(v.isfinite(), v, 0.0).sum() for v in values)
            results.append((*values, *torch.autograd.grad(total, z)))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_float32_is_as_exact_as_dense(name):
    """Error against float64, over a few batches: no larger than that of `dense`, but for a few units."""
    errors: dict[str, list[torch.Tensor]] = {"dense": [], "tiled": []}
    for seed in range(4):
        x, labels = batch(64, 4, 32, spread=0.9, seed=seed)
        exact = value_and_gradient({"name": name, "backend": "dense"}, x, labels)
        for backend, found in errors.items():
            value, grad = value_and_gradient({"name": name, "backend": backend}, x.float(), labels)
            in_value = (value - exact[0]).abs() / exact[0].abs().clamp_min(1e-30)
            in_gradient = (grad - exact[1]).abs().max() / exact[1].abs().max().clamp_min(1e-30)
            found.append(torch.stack([in_value, in_gradient]))
    dense, ours = (torch.stack(errors[backend]).mean(0) for backend in ("dense", "tiled"))
    assert (ours <= 1.2 * dense + 4e-7).all(), (dense, ours)


@in_turns(2, dtype=[torch.float16, torch.bfloat16], name=["supcon", "triplet", "multi_similarity"])
def test_half_precision_is_summed_in_float32(name, dtype):
    x, labels = batch(100, 4, 32)
    x = x.to(dtype)
    exact = value_and_gradient({"name": name, "backend": "reference"}, x.double(), labels)
    ours = value_and_gradient({"name": name, "backend": "tiled"}, x, labels)
    assert ours[0].dtype == torch.float32
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-5, atol=1e-6)
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(
        ours[1].double(), exact[1], rtol=2 * rounding, atol=2 * rounding * exact[1].abs().max().item()
    )


@pytest.mark.parametrize("measure", ["euclidean", "squared_euclidean"])
def test_distances_of_near_pairs_keep_their_digits(measure):
    """Tight classes far from the origin: |x|² + |y|² - 2 <x, y> has no digit left in float32."""
    x, labels = batch(40, 4, 16)
    x = (10 + torch.randn(40, 16, dtype=torch.float64)[labels] * 1e-2 + 1e-4 * x).float()
    create = {"name": "triplet", "similarity": measure, "margin": 0.0, "soft": True}
    exact = value_and_gradient({**create, "backend": "reference"}, x.double(), labels)
    ours = value_and_gradient({**create, "backend": "tiled"}, x, labels)
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-6, atol=0)
    assert (ours[1] - exact[1]).abs().max() <= 3e-6 * exact[1].abs().max()


def test_tiles_under_every_threshold_are_skipped(monkeypatch):
    """Separated classes: after the first pass no tile is made again, and nothing changes."""
    made = []
    tile = two_passes.Scan._tile
    monkeypatch.setattr(two_passes.Scan, "_tile", lambda self, i, j: made.append((i, j)) or tile(self, i, j))
    monkeypatch.setattr(tiled, "TILE", 16)
    labels = torch.arange(16).repeat_interleave(4)
    x = torch.eye(16, dtype=torch.float64)[labels] + 0.01 * torch.randn(64, 16, dtype=torch.float64)
    weights = torch.linspace(1, 2, 64)
    expected = value_and_gradient({"name": "contrastive", "backend": "dense"}, x, labels, weights=weights)
    made.clear()
    ours = value_and_gradient({"name": "contrastive", "backend": "tiled"}, x, labels, weights=weights)
    assert len(made) == 10  # four blocks of 16: the tiles on and above the diagonal, once
    torch.testing.assert_close(ours, expected)


def test_a_tile_is_not_skipped_while_one_of_its_sides_can_reach_it(monkeypatch):
    """Half of the anchors can reach nothing, the other half everything."""
    monkeypatch.setattr(tiled, "TILE", 16)
    x, labels = batch(16, 4, 8)
    deaf = labels < 8
    sums = {}
    for backend in ("tiled", "dense"):
        z = x.clone().requires_grad_()
        threshold = torch.where(deaf, 2.0, -2.0).to(z)
        (total,) = Pairs.within(z, labels, backend=backend).stream(HingeSum(threshold))
        sums[backend] = total, *torch.autograd.grad(total.sum(), z)
    assert (sums["tiled"][0][deaf] == 0).all()
    assert (sums["tiled"][0][~deaf] > 0).all()
    torch.testing.assert_close(sums["tiled"], sums["dense"])


def test_the_nearest_negative_is_never_a_positive_that_ties_with_it():
    """Every vector comes three times: twice in its class and once in another."""
    x, labels = batch(4, 2, 6)
    x, labels = torch.cat([x, x, x]), torch.cat([labels, labels, labels + 4])
    places = {}
    for backend in ("tiled", "reference"):
        z = x.detach().clone().requires_grad_()
        nearest, place = Pairs.within(z, labels, backend=backend).stream(Max(), ArgMax())
        assert (labels[place] != labels).all()
        places[backend] = nearest, *torch.autograd.grad(nearest.sum(), z)
    torch.testing.assert_close(places["tiled"], places["reference"])


def test_several_reductions_share_one_pass(monkeypatch):
    made = []
    tile = two_passes.Scan._tile
    monkeypatch.setattr(two_passes.Scan, "_tile", lambda self, i, j: made.append((i, j)) or tile(self, i, j))
    x, labels = batch(10, 4, 8)
    pairs = Pairs.within(x, labels, backend="tiled")
    pairs.stream(LogSumExp(scale=3.0), Max(), ArgMax(), Sum(), Count(above=0.1), SoftplusSum(0.0), TopK(3))
    assert len(made) == 3  # two blocks of rows
    made.clear()
    nearfar.losses.create("multi_similarity", mining="multi_similarity", backend="tiled")(x, labels)
    assert len(made) == 3  # two blocks of rows


def test_gradient_in_one_pass_for_a_common_upstream_only():
    """A hinge sum makes its gradient in the forward pass; another upstream for each anchor makes it again."""
    x, labels = batch(12, 4, 6)
    threshold = torch.linspace(-0.5, 0.5, len(x), dtype=x.dtype)
    for upstream in (torch.full((48,), 0.3, dtype=x.dtype), torch.linspace(-1, 1, 48, dtype=x.dtype)):
        grads = []
        for backend in ("dense", "tiled"):
            z, t = x.clone().requires_grad_(), threshold.clone().requires_grad_()
            value, _ = Pairs.within(z, labels, backend=backend).stream(HingeSum(t), Count(above=t.detach()))
            grads.append(torch.autograd.grad(value @ upstream, [z, t]))
        torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.parametrize("over", ["anchor", "batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_order_statistics_are_exact_to_the_last_bit(over, dtype):
    x, labels = batch(30, 4, 7)
    pairs = Pairs.within(x.to(dtype), labels, backend="tiled")
    s = pairs.block.anchors @ pairs.block.anchors.T
    s = torch.where(labels[:, None] == labels, -torch.inf, s)
    ordered = (s if over == "anchor" else s.reshape(1, -1)).sort(1, descending=True).values
    for rank in (1, 17, 100):
        (value,) = pairs.stream(OrderStatistic(rank, over=over))
        expected = ordered[:, rank - 1].expand(len(x))
        torch.testing.assert_close(value, expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-8)
        assert torch.isin(value, s).all() or dtype == torch.float32


@pytest.mark.parametrize("bounds", [False, True])
@pytest.mark.parametrize("common", [False, True])
def test_thresholds_may_be_ranked(monkeypatch, bounds, common):
    """Hinges with very many thresholds take another way to the same numbers."""
    monkeypatch.setattr(ranked_steps, "MANY", 1)
    monkeypatch.setattr(tiled, "TILE", 16)
    x, labels = batch(6, 7, 5)
    labels[:4] = torch.arange(50, 54)  # fewer positives, and none
    results = []
    for backend in ("dense", "tiled"):
        z = x.clone().requires_grad_()
        pairs = Pairs.within(z, labels, backend=backend)
        limit = pairs.positives.similarity - 0.1
        if bounds:
            above = torch.linspace(-0.6, 0.2, len(x), dtype=x.dtype)
            pairs = pairs.narrow(above=above, below=above + 0.6)
        hinge, count = pairs.stream(
            HingeSum(limit, per="positive"), Count(above=limit.detach(), per="positive")
        )
        upstream = torch.ones_like(hinge) if common else torch.linspace(-1, 1, len(hinge), dtype=x.dtype)
        results.append((hinge, count, *torch.autograd.grad(hinge @ upstream, z)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-11)


def test_an_error_in_a_thread_reaches_the_caller():
    def work(index):
        if index == 3:
            raise RuntimeError("tile 3")

    with pytest.raises(RuntimeError, match="tile 3"):
        in_turn(work, [(0, 1), (2,), (0,), (1,), (1, 2), (0,)], workers=3)


def test_calls_with_a_common_key_keep_their_order():
    keys = [tuple(random.Random(k).sample(range(4), 1 + k % 2)) for k in range(60)]
    seen = {key: [] for key in range(4)}

    def work(index):
        time.sleep(random.random() / 2000)
        for key in keys[index]:
            seen[key].append(index)

    in_turn(work, keys, workers=4)
    assert seen == {key: [k for k, some in enumerate(keys) if key in some] for key in range(4)}


FORK = """
import os, torch, nearfar
torch.set_num_threads(2)
x, labels = torch.randn(200, 8), torch.arange(200) // 4
nearfar.losses.create("supcon", backend="tiled")(x, labels)
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # as torch's loader does in its workers
    nearfar.losses.create("supcon", backend="tiled")(x, labels)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


def test_a_forked_worker_may_compute_a_loss_too(tmp_path):
    assert rank_processes.printed(FORK, tmp_path) == ["0"]


@pytest.mark.parametrize("measure", ["euclidean", "squared_euclidean"])
def test_a_maximum_and_a_sum_of_distances_in_one_pass(measure):
    """In float32, where the gradient of distances is summed in float64."""
    x, labels = batch(4, 3, 6)
    found = []
    for backend in ("tiled", "dense"):
        y = x.float().requires_grad_()
        pairs = Pairs.within(y, labels, similarity=measure, backend=backend)
        value = torch.stack([each.sum() for each in pairs.stream(Max(), Min(), LogSumExp(scale=2.0))]).sum()
        found.append(torch.autograd.grad(value, y)[0])
    torch.testing.assert_close(*found)
