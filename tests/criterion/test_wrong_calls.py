"""What a loss is called with and cannot use gets one sentence, whatever the loss and the backend."""

import warnings

import pytest
import torch

import nearfar
from nearfar.errors import NearfarError
from nearfar.losses import Sum
from nearfar.losses.parts.registry import has_proxies, registry
from problems import BACKENDS
from turns import in_turns

N, M, DIM, CLASSES = 8, 6, 4, 4
GENERATOR = torch.Generator().manual_seed(0)
X, C = torch.randn(N, DIM, generator=GENERATOR), torch.randn(M, DIM, generator=GENERATOR)
Y, CY, IDS = torch.arange(N) // 2, torch.arange(M) // 2, torch.arange(N)
W = torch.ones(N)
WITH = {"candidates": C, "candidate_labels": CY}


def meta(x: torch.Tensor) -> torch.Tensor:
    return x.to("meta")


EMBEDDINGS = {
    "one row": X[0],
    "three axes": X[None],
    "whole numbers": X.long(),
    "truth values": X > 0,
    "complex": X.to(torch.complex64),
    "sparse": X.to_sparse(),
    "float8": X.to(torch.float8_e5m2),
    "elsewhere": meta(X),
    "none": None,
    "numpy": X.numpy(),
    "list": X.tolist(),
}
LABELS = {
    "too few": Y[:5],
    "too many": torch.arange(10) // 3,
    "one": Y[:1],
    "no axis": Y[0],
    "three axes": Y[:, None, None],
    "a column": Y[:, None],
    "a column of truth values": (Y > 1)[:, None],
    "a column of 0 and 1": (Y > 1).long()[:, None],
    "too few tags": torch.ones(5, 2).long(),
    "complex tags": torch.zeros(N, 2, dtype=torch.complex64),
    "real": Y.float(),
    "complex": Y.to(torch.complex64),
    "truth values": Y > 1,
    "elsewhere": meta(Y),
}
KINDS_OF_LABELS = {
    "tags of 3": torch.full((N, 2), 3),
    "tags of NaN": torch.full((N, 2), torch.nan),
    "none": None,
    "numpy": Y.numpy(),
    "list": Y.tolist(),
    "pairs of rows that are not there": nearfar.Relevance(torch.tensor([[0, 99]])),
    "pairs of real numbers": nearfar.Relevance(torch.rand(2, 2)),
    "pairs as a list": nearfar.Relevance([[0, 1]]),
    "pairs of complex numbers": nearfar.Relevance(torch.ones(2, 2).to(torch.complex64)),
    "pairs elsewhere": nearfar.Relevance(meta(torch.tensor([[0, 1]]))),
}
MORE = {
    "too few weights": {"weights": W[:5]},
    "weights in a column": {"weights": W[:, None]},
    "a list of weights": {"weights": W.tolist()},
    "one weight": {"weights": 1.0},
    "weights below 0": {"weights": -W},
    "weights of NaN": {"weights": W * torch.nan},
    "infinite weights": {"weights": W * torch.inf},
    "complex weights": {"weights": W.to(torch.complex64)},
    "weights elsewhere": {"weights": meta(W)},
    "too few ids": {"ids": IDS[:5]},
    "real ids": {"ids": IDS.float()},
    "ids in a column": {"ids": IDS[:, None]},
    "a list of ids": {"ids": IDS.tolist()},
    "ids elsewhere": {"ids": meta(IDS)},
    "candidates without labels": {"candidates": C},
    "labels without candidates": {"candidate_labels": CY},
    "candidates of another dimension": {**WITH, "candidates": torch.randn(M, 5)},
    "one candidate's row": {**WITH, "candidates": C[0]},
    "candidates elsewhere": {**WITH, "candidates": meta(C)},
    "too few candidate labels": {**WITH, "candidate_labels": CY[:2]},
    "candidate labels in a column": {**WITH, "candidate_labels": CY[:, None]},
    "tags of candidates": {**WITH, "candidate_labels": torch.ones(M, 2).long()},
    "real candidate labels": {**WITH, "candidate_labels": CY.float()},
    "candidate labels elsewhere": {**WITH, "candidate_labels": meta(CY)},
    "candidate ids alone": {**WITH, "candidate_ids": torch.arange(M)},
    "too few candidate ids": {**WITH, "ids": IDS, "candidate_ids": torch.arange(3)},
    "candidate ids without candidates": {"candidate_ids": IDS},
    "no memory": {"memory": 3},
}


def made(name: str, backend: str, **more) -> torch.nn.Module:
    own = {"classes": CLASSES, "dim": DIM} if has_proxies(name) else {}
    return nearfar.losses.create(name, backend=backend, **own, **more)


def refused(loss: torch.nn.Module, **wrong) -> str:
    with pytest.raises(NearfarError) as error:
        loss(**{"embeddings": X, "labels": Y, **wrong})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
    return str(error.value)


@in_turns(3, backend=BACKENDS, name=registry.names())
def test_every_loss_refuses_in_one_sentence(name, backend):
    for more in ({}, {"class_weights": {0: 2.0}}):
        loss = made(name, backend, **more).eval()
        expected = loss(X, Y)
        for rows in EMBEDDINGS.values():
            refused(loss, embeddings=rows)
        for labels in LABELS.values():
            refused(loss, labels=labels)
        for wrong in MORE.values():
            refused(loss, **wrong)
        if registry[name].needs != "nothing":
            for labels in KINDS_OF_LABELS.values():
                refused(loss, labels=labels)
        if has_proxies(name):
            for outside in (Y + CLASSES, Y - 1, Y + 2**62):
                assert "is not among the 4 classes" in refused(loss, labels=outside)
            assert "create it with dim=3" in refused(loss, embeddings=X[:, :3])
        assert torch.equal(loss(X, Y), expected), "a call that was refused leaves nothing behind"


def test_a_sum_refuses_the_same():
    both = Sum({"arcface": 1.0, "triplet": 1.0}, classes=CLASSES, dim=DIM)
    for wrong in [
        *({"labels": y} for y in LABELS.values()),
        *({"embeddings": x} for x in EMBEDDINGS.values()),
    ]:
        refused(both, **wrong)


def test_pairs_refuse_the_same():
    for labels in LABELS.values():
        if labels.device.type == "cpu":
            with pytest.raises(NearfarError):
                nearfar.Pairs.within(X, labels)
            with pytest.raises(NearfarError):
                nearfar.Pairs.between(X, labels, C, CY)
    with pytest.raises(NearfarError, match="embeddings have 4 dimensions but candidates have 5"):
        nearfar.Pairs.between(X, Y, torch.randn(M, 5), CY)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("name", ["triplet", "arcface", "soft_triple", "margin"])
def test_labels_are_whole_numbers_of_any_size(name, dtype):
    loss = made(name, "auto", class_weights={1: 2.0})
    assert torch.equal(loss(X, Y.to(dtype)), loss(X, Y))


def test_a_column_of_labels_is_no_tag():
    """A loss and a sampler refuse it; evaluation takes it for the classes that it lists."""
    flat = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    columns = [flat[:, None], flat[:, None].bool(), flat[:, None].int(), torch.arange(8)[:, None] // 2]
    memory = nearfar.CrossBatchMemory(16)
    for column in columns:
        calls = [
            lambda y: nearfar.losses.create("supcon")(X, y),
            lambda y: nearfar.losses.create("supcon")(X, y, X, y),
            lambda y: nearfar.losses.create("supcon")(X, flat, X, y),
            lambda y: nearfar.losses.create("supcon")(X, y, memory=memory),
            lambda y: Sum({"supcon": 1.0})(X, y),
            lambda y: memory.add(X, y),
            lambda y: nearfar.Pairs.within(X, y),
        ]
        both = [
            lambda y: nearfar.data.create_sampler("pk", y, 2, 2),
            lambda y: nearfar.data.create_sampler("hard_classes", y, 2, 2),
        ]
        for call in calls + both:
            with pytest.raises(NearfarError, match=r"flatten\(\)|one integer for each image"):
                call(column)
        for call in both:
            for given in (column.numpy(), column.tolist()):
                with pytest.raises(NearfarError, match=r"flatten\(\)|one integer for each image"):
                    call(given)
    evaluations = [
        lambda y: nearfar.evaluate.retrieval(X, y),
        lambda y: nearfar.evaluate.retrieval(X, y, gallery=X, gallery_labels=y),
        lambda y: nearfar.evaluate.clustering(X, y),
        lambda y: nearfar.evaluate.space(X, y),
    ]
    for call in evaluations:
        for given in (flat[:, None], flat[:, None].int(), flat[:, None].numpy(), flat[:, None].tolist()):
            assert str(call(given)) == str(call(flat))


@in_turns(3, backend=BACKENDS, name=registry.names())
def test_an_empty_batch_is_worth_nothing(name, backend):
    loss = made(name, backend)
    x = torch.zeros(0, DIM, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing was given, so nothing is missing
        value = loss(x, torch.zeros(0, dtype=torch.long))
    value.backward()
    assert value.item() == 0
    assert x.grad is None or x.grad.shape == x.shape
