"""The ring, who meets whom, types and devices, drift."""

import copy

import pytest
import torch

import nearfar
from memory_rows import equal, gradient, rows
from problems import BACKENDS, batch

backends = pytest.mark.parametrize("backend", BACKENDS)


# The ring


def test_slot_is_the_count_modulo_the_size():
    """Batches of changing size, one larger than the memory: after each, the newest rows, each in its slot."""
    memory, count, latest = nearfar.CrossBatchMemory(7), 0, {}
    for seed, n in enumerate([3, 3, 2, 0, 5, 17, 1, 7]):
        x, labels = rows(n, seed)
        memory.add(x, labels, torch.arange(count, count + n))
        for k in range(n):
            latest[(count + k) % 7] = (count + k, x[k], labels[k])
        count += n
        assert len(memory) == min(count, 7)
        for slot, (id_, row, label) in latest.items():
            assert memory.ids[slot] == id_
            assert torch.equal(memory.embeddings[slot], row)
            assert memory.labels[slot] == label


@pytest.mark.filterwarnings("ignore:this batch has no positive pair")
def test_hand_worked():
    """Two steps of the contrastive loss on the circle: 1 - s for positives, s - ½ for negatives beyond ½."""
    loss = nearfar.losses.create("contrastive", reduction="sum")
    memory = nearfar.CrossBatchMemory(4)
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert loss(first, torch.tensor([0, 1]), memory=memory) == 0
    second = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    # The batch: the pair (0.6), of one class, from either side: 2 · 0.4. Row 0 with the memory: positive
    # (1, 0) 1 - 0.6; negative (0, 1) 0.8 - 0.5. Row 1 with the memory: 1 - 1 and 0.
    torch.testing.assert_close(
        loss(second, torch.tensor([0, 0]), memory=memory), torch.tensor(0.8 + 0.4 + 0.3)
    )
    assert memory.labels.tolist() == [0, 1, 0, 0]
    assert memory.made.tolist() == [1, 1, 2, 2]


@backends
def test_empty_memory_changes_nothing(backend):
    x, labels = batch(4, 3, 6)
    for name in ("supcon", "lifted_structure", "triplet"):
        loss = nearfar.losses.create(name, backend=backend)
        equal(
            gradient(loss, x, labels, memory=nearfar.CrossBatchMemory(9)),
            gradient(loss, x, labels),
        )


def test_start_after_counts_training_steps():
    loss, memory = nearfar.losses.create("supcon"), nearfar.CrossBatchMemory(100, start_after=2)
    for step in range(4):
        x, labels = rows(6, step)
        loss(x.requires_grad_(), labels, memory=memory)
        assert len(memory) == 6 * max(0, step - 1)
    assert memory.step == 4


def test_read_but_left_alone_outside_training():
    x, labels = batch(3, 3, 6)
    loss, memory = nearfar.losses.create("supcon"), nearfar.CrossBatchMemory(20)
    memory.add(*rows(8, 0, 6, torch.float64))
    before = copy.deepcopy(memory.state_dict())
    alone, with_memory = loss(x, labels), loss.eval()(x, labels, memory=memory)
    assert with_memory != alone
    with torch.no_grad():
        assert loss.train()(x, labels, memory=memory) == with_memory
    memory.eval()
    assert loss(x, labels, memory=memory) == with_memory
    with torch.inference_mode():
        assert loss(x, labels, memory=memory) == with_memory
    after = memory.state_dict()
    assert str(before) == str(after)
    memory.train()
    loss(x, labels, memory=memory)
    assert len(memory) == 17


# Who meets whom


@backends
def test_a_memory_that_holds_the_batch_never_meets_it_by_id(backend):
    x, labels = batch(4, 3, 6)
    ids = torch.arange(len(x))
    for name, mining in [("supcon", None), ("triplet", "hard"), ("multi_similarity", "multi_similarity")]:
        loss = nearfar.losses.create(name, mining=mining, backend=backend)
        memory = nearfar.CrossBatchMemory(50)
        memory.add(x, labels, ids)
        others = nearfar.CrossBatchMemory(50)
        for i in range(len(x)):  # what row i may see: the other rows, twice
            keep = ids != i
            others.clear()
            others.add(x[keep], labels[keep], ids[keep])
            one = torch.zeros(len(x)).double()
            one[i] = 1.0
            a = gradient(loss.eval(), x, labels, ids=ids, memory=memory, weights=one)
            b = gradient(loss.eval(), x, labels, ids=ids, memory=others, weights=one)
            torch.testing.assert_close(a[0], b[0])
            torch.testing.assert_close(a[1][i], b[1][i])


@backends
def test_several_copies_with_one_id(backend):
    x, labels = batch(3, 2, 5)
    ids = torch.arange(len(x))
    memory = nearfar.CrossBatchMemory(50)
    for scale in (1.0, 2.0, 3.0):
        memory.add(scale * x[:2], labels[:2], ids[:2])
    loss = nearfar.losses.create("contrastive", reduction="none", backend=backend).eval()
    value = loss(x[:1], labels[:1], ids=ids[:1], memory=memory)
    near = torch.nn.functional.cosine_similarity(x[0], x[1], dim=0)
    term = 1 - near if labels[0] == labels[1] else (near - 0.5).clamp_min(0)
    torch.testing.assert_close(value, 3 * term[None])


@backends
@pytest.mark.filterwarnings("ignore:this batch has no positive pair")
@pytest.mark.parametrize("name", ["supcon", "triplet", "margin", "multi_similarity", "siglip", "clip"])
@pytest.mark.parametrize("classes", [1, 4])
def test_edges_are_finite(name, classes, backend):
    """One class in all, a single row, a zero vector, rows that are there twice; a memory smaller than these."""
    loss = nearfar.losses.create(name, backend=backend)
    memory = nearfar.CrossBatchMemory(3)
    for n in (1, 5, 0, 5):
        x, labels = rows(n, 1)
        if n:
            x[-1] = 0.0
        value, dx = gradient(loss, x, labels % classes, memory=memory)
        assert value.isfinite().all()
        assert dx.isfinite().all()


def test_rows_that_are_not_finite_are_not_stored():
    x, labels = rows(4, 0)
    x[1, 0], x[2, 3] = torch.nan, 7e4
    memory = nearfar.CrossBatchMemory(3, dtype=torch.float16)
    memory.add(x, labels)
    assert len(memory) == 2
    assert memory.labels[:2].tolist() == labels[[0, 3]].tolist()


def test_filled_in_inference_mode_and_used_in_training():
    memory, loss = nearfar.CrossBatchMemory(8), nearfar.losses.create("supcon")
    with torch.inference_mode():
        x, labels = rows(5, 0)
        memory.add(x + 1.0, labels)
    for seed in (1, 2):
        assert gradient(loss, *rows(5, seed), memory=memory)[1].isfinite().all()


def test_tags():
    x, _ = rows(5, 0)
    tags = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]])
    memory, loss = nearfar.CrossBatchMemory(8), nearfar.losses.create("contrastive", reduction="sum")
    memory.add(x, tags)
    value = loss.eval()(x[:3] + 1.0, tags[:3], memory=memory)
    s = (
        torch.nn.functional.normalize(x[:3] + 1.0)
        @ torch.nn.functional.normalize(torch.cat([x[:3] + 1.0, x])).T
    )
    kin = (tags[:3].float() @ torch.cat([tags[:3], tags]).float().T) > 0
    terms = torch.where(kin, 1 - s, (s - 0.5).clamp_min(0))
    torch.testing.assert_close(value, terms.sum() - terms.diagonal().sum())


# Type and place


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_half_storage_is_the_memory_of_rounded_rows(dtype, similarity):
    x, labels = rows(40, 0)
    rounded, exact = nearfar.CrossBatchMemory(64, dtype=dtype), nearfar.CrossBatchMemory(64)
    past = rows(50, 1)
    rounded.add(*past)
    exact.add(past[0].to(dtype).float(), past[1])
    assert rounded.embeddings.dtype == dtype
    for name in ("supcon", "triplet"):
        for backend in ("tiled", "dense"):
            loss = nearfar.losses.create(name, similarity=similarity, backend=backend).eval()
            a, b = (gradient(loss, x, labels, memory=memory) for memory in (rounded, exact))
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_less_accurate_than_dense(similarity, dtype):
    x, labels = batch(8, 2, 96, spread=2.0)
    past, past_labels = batch(8, 30, 96, spread=2.0)
    past = (past + 0.05 * torch.randn(past.shape, generator=torch.Generator().manual_seed(3))).to(dtype)
    errors = {}
    for name in ("supcon", "contrastive"):
        margins = {"positive_margin": 0.5, "negative_margin": 0.6} if name == "contrastive" else {}
        results = {}
        for backend in BACKENDS:
            loss = nearfar.losses.create(name, similarity=similarity, backend=backend, **margins).eval()
            memory = nearfar.CrossBatchMemory(240)
            memory.add(past, past_labels)
            given = x.float() if backend != "reference" else x.float().double()
            results[backend] = gradient(loss, given, labels, memory=memory)[1].double()
        for backend in ("dense", "tiled"):
            errors[backend] = (results[backend] - results["reference"]).abs().max().item()
        assert errors["tiled"] <= 1.5 * errors["dense"] + 1e-6 * results["reference"].abs().max().item()


def test_half_precision_batches():
    x, labels = rows(12, 0)
    loss, memory = nearfar.losses.create("multi_similarity", mining="multi_similarity"), None
    for dtype in (torch.float16, torch.bfloat16):
        memory = nearfar.CrossBatchMemory(30)
        gradient(loss, x.to(dtype), labels, memory=memory)
        value, dx = gradient(loss, x.to(dtype), labels, memory=memory)
        assert memory.embeddings.dtype == dx.dtype == dtype
        assert value.dtype == torch.float32
        assert dx.isfinite().all()


def test_stays_where_it_is_when_its_owner_moves():
    owner = torch.nn.Module()
    owner.memory = nearfar.CrossBatchMemory(4)
    owner.memory.add(*rows(2, 0))
    owner.to(torch.float64).to("meta")
    assert owner.memory.embeddings.dtype == torch.float32
    assert owner.memory.embeddings.device.type == "cpu"


# What a loss that is not computed ahead must not see


@pytest.mark.parametrize("backend", ["tiled", "dense"])
def test_backward_after_the_memory_has_changed(backend):
    """``reduction="none"`` leaves the gradient to the backward pass; by then the ring has moved on."""
    x, labels = rows(9, 0)
    loss = nearfar.losses.create("supcon", reduction="none", backend=backend)
    memory = nearfar.CrossBatchMemory(10)
    memory.add(*rows(10, 1))
    _, expected = gradient(loss.eval(), x, labels, memory=memory)
    leaf = x.clone().requires_grad_()
    value = loss.train()(leaf, labels, memory=memory).sum()
    memory.add(*rows(10, 2))
    value.backward()
    torch.testing.assert_close(leaf.grad, expected)


def test_statistics_are_of_the_batch_itself():
    x, labels = rows(9, 0)
    loss, memory = nearfar.losses.create("supcon"), nearfar.CrossBatchMemory(10)
    loss(x, labels)
    alone = loss.last.negative_similarity
    memory.add(*rows(10, 1))
    loss(x, labels, memory=memory)
    assert loss.last.negative_similarity == alone


# Drift


def test_drift_is_the_mean_cosine_of_rows_that_come_again():
    loss, memory = nearfar.losses.create("supcon"), nearfar.CrossBatchMemory(10)
    x, labels = rows(4, 0)
    loss(x, labels, ids=torch.tensor([0, 1, 2, 3]), memory=memory)
    assert memory.drift.isnan()
    newer = x + 0.3 * rows(4, 1)[0]
    loss(newer, labels, ids=torch.tensor([7, 2, 8, 0]), memory=memory)
    cosine = torch.nn.functional.cosine_similarity
    expected = (cosine(newer[1], x[2], dim=0) + cosine(newer[3], x[0], dim=0)) / 2
    torch.testing.assert_close(memory.drift, expected)


def test_several_losses_of_one_step_store_once():
    x, labels = rows(6, 0)
    one, other = nearfar.losses.create("supcon"), nearfar.losses.create("contrastive")
    memory = nearfar.CrossBatchMemory(20)
    memory.add(*rows(6, 1))
    expected = [loss.eval()(x, labels, memory=memory) for loss in (one, other)]
    with memory.one_step():
        found = [loss.train()(x, labels, memory=memory) for loss in (one, other)]
    equal(found, expected)
    assert (len(memory), memory.step) == (12, 1)
    before = nearfar.CrossBatchMemory(20, enqueue="before", combine="memory")
    with before.one_step():
        first, second = (loss(x, labels, memory=before) for loss in (one, one))
    assert first == second
    assert (len(before), before.step) == (6, 1)
