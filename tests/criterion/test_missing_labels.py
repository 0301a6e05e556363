"""Label -1 stands for "missing" in many data sets: a warning that counts it, and ``unlabelled`` to leave it out."""

import warnings

import numpy as np
import pytest
import torch

import nearfar
from nearfar.errors import NearfarError
from nearfar.losses import Sum
from nearfar.losses.parts.registry import has_proxies, registry

N, DIM, CLASSES = 16, 4, 4
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, DIM, generator=GENERATOR)
Y = torch.arange(N) // 4
SOME = torch.tensor([0, 3, 5, 10, 11])
MISSING = Y.index_fill(0, SOME, -1)
LEFT = torch.nonzero(MISSING >= 0).squeeze(1)


def made(name: str, **more) -> torch.nn.Module:
    torch.manual_seed(0)
    own = {"classes": CLASSES, "dim": DIM} if has_proxies(name) else {}
    return nearfar.losses.create(name, **own, **more)


def gradient(loss: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, **more):
    x = x.clone().requires_grad_()
    value = loss(x, labels, **more)
    (found,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), found


@pytest.mark.parametrize("name", registry.names())
def test_rows_without_a_label_are_left_out_of_every_loss(name):
    value, found = gradient(made(name, unlabelled=-1), X, MISSING, ids=torch.arange(N))
    expected, slope = gradient(made(name), X[LEFT], MISSING[LEFT], ids=torch.arange(N)[LEFT])
    assert torch.equal(value, expected)
    assert torch.equal(found[LEFT], slope)
    assert not found[SOME].any()
    loss = made(name, unlabelled=-1, reduction="none")
    each = loss(X, MISSING)
    if loss.weighs_anchors:
        assert each.shape == (N,)
        assert not each[SOME].any()
        assert torch.equal(each[LEFT], made(name, reduction="none")(X[LEFT], MISSING[LEFT]))
        weights = torch.rand(N, generator=GENERATOR)
        torch.testing.assert_close(
            made(name, unlabelled=-1)(X, MISSING, weights=weights),
            made(name)(X[LEFT], MISSING[LEFT], weights=weights[LEFT]),
        )


def test_another_mark_will_do():
    loss, plain = made("supcon", unlabelled=np.int64(2)), made("supcon")
    kept = Y != 2
    assert torch.equal(loss(X, Y), plain(X[kept], Y[kept]))
    assert "unlabelled=2" in repr(loss)
    for wrong in ("x", 0.5, True, float("nan"), 10**400):
        with pytest.raises(NearfarError, match="unlabelled must be a label"):
            nearfar.losses.create("supcon", unlabelled=wrong)


def test_candidates_memories_and_sums():
    loss, plain = made("triplet", unlabelled=-1), made("triplet")
    torch.testing.assert_close(
        loss(X[:7], Y[:7], X, MISSING, ids=torch.arange(7), candidate_ids=torch.arange(N)),
        plain(X[:7], Y[:7], X[LEFT], Y[LEFT], ids=torch.arange(7), candidate_ids=LEFT),
    )
    memories = [nearfar.CrossBatchMemory(32) for _ in range(2)]
    for k in range(2):
        torch.testing.assert_close(
            loss(X + k, MISSING, memory=memories[0]), plain(X[LEFT] + k, Y[LEFT], memory=memories[1])
        )
    assert len(memories[0]) == len(memories[1]) == 2 * len(LEFT)
    torch.manual_seed(0)
    both = Sum({"arcface": 1.0, "contrastive": 0.5, plain: 1.0}, classes=MISSING, dim=DIM, unlabelled=-1)
    assert both.losses["arcface"].class_labels.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(both(X, MISSING), both(X[LEFT], Y[LEFT]))


def test_nothing_but_missing_labels():
    loss = made("arcface", unlabelled=-1)
    value, found = gradient(loss, X, torch.full((N,), -1))
    assert value == 0
    assert not found.any()


def test_one_warning_counts_them():
    loss = made("supcon")
    with pytest.warns(UserWarning, match="5 of 16 labels are -1, .* give the loss unlabelled=-1"):
        loss(X, MISSING)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(X, MISSING)
        made("supcon")(X, Y - 5)  # -5 to -2
        made("supcon", unlabelled=-1)(X, MISSING)
        made("uniformity")(X, MISSING)
        made("supcon")(X, (torch.rand(N, 3) > 0.5).long())
    with pytest.warns(UserWarning, match="5 of 32 labels are -1"):
        made("triplet")(X, Y, X, MISSING)
    with pytest.warns(UserWarning, match="labels are -1") as told:
        Sum({"uniformity": 1.0, "supcon": 1.0, "triplet": 1.0})(X, MISSING)
    assert len(told) == 1
    proxies = nearfar.losses.create("arcface", classes=MISSING, dim=DIM)
    assert proxies.class_labels.tolist() == [-1, 0, 1, 2, 3]
    with pytest.warns(UserWarning, match="labels are -1"):
        proxies(X, MISSING)


def metrics(result):
    return {key: value for key, value in result.to_dict().items() if key != "settings"}


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray, list])
def test_evaluation_leaves_them_out_and_warns(kind):
    x, missing, left = X.numpy(), MISSING.numpy(), LEFT.numpy()
    labels = kind(missing)
    retrieval, clustering, space = (
        nearfar.evaluate.retrieval,
        nearfar.evaluate.clustering,
        nearfar.evaluate.space,
    )
    expected = metrics(retrieval(x[left], missing[left], ids=left))
    assert metrics(retrieval(x, labels, ids=kind(np.arange(N)), unlabelled=-1)) == expected
    apart = {"gallery": X, "gallery_labels": labels}
    expected = retrieval(x[left][:4], missing[left][:4], gallery=x[left], gallery_labels=missing[left])
    found = retrieval(x[left][:4], missing[left][:4], **apart, unlabelled=-1)
    assert metrics(found) == metrics(expected)
    assert str(clustering(x, labels, unlabelled=-1)) == str(clustering(x[left], missing[left]))
    assert space(x, labels, unlabelled=-1).intra == space(x[left], missing[left]).intra
    for call in (retrieval, clustering, space):
        with pytest.warns(UserWarning, match="5 of 16 labels are -1"):
            call(x, labels)
        with pytest.raises(NearfarError, match="unlabelled is 'x'; use a whole number"):
            call(x, labels, unlabelled="x")
        with pytest.raises(NearfarError, match="nothing is left"):
            call(x, kind(np.full(N, -1)), unlabelled=-1)
    with pytest.raises(
        NearfarError, match="unlabelled is one of the integer labels that decide what is relevant"
    ):
        retrieval(x, labels, relevant=np.eye(N, dtype=bool), unlabelled=-1)


def test_cameras_know_a_label_of_junk_already():
    """There -1 is a detection that counts for nothing, as the benchmarks of persons have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nearfar.evaluate.retrieval(
            X[LEFT],
            Y[LEFT],
            gallery=X,
            gallery_labels=MISSING,
            cameras=torch.zeros(len(LEFT)).long(),
            gallery_cameras=torch.arange(N) % 3,
        )


@pytest.mark.parametrize("name", ["pk", "balanced", "hierarchical", "hard_classes"])
def test_samplers_leave_them_out_and_warn(name):
    labels = np.repeat(np.arange(6), 6)
    labels[::5] = -1
    own = {"super_classes": np.where(labels < 0, 9, labels % 2)} if name == "hierarchical" else {}
    sampler = nearfar.data.create_sampler(name, labels, 4, 3, unlabelled=-1, **own)
    batches = [np.asarray(batch) for batch in sampler]
    rows = np.concatenate(batches)
    assert (labels[rows] >= 0).all()
    assert all(len(np.unique(labels[batch])) == 4 for batch in batches)
    if name in ("pk", "hierarchical"):
        assert set(rows) == set(np.flatnonzero(labels >= 0))
    same = nearfar.data.create_sampler(
        name, torch.from_numpy(labels), np.int64(4), torch.tensor(3), unlabelled=-1, **own
    )
    for batch, other in zip(batches, same, strict=True):
        assert np.array_equal(batch, other)
    own = {"super_classes": np.where(labels < 0, 0, labels % 2)} if own else {}
    with pytest.warns(UserWarning, match="8 of 36 labels are -1, .* give create_sampler unlabelled=-1"):
        nearfar.data.create_sampler(name, labels, 4, 3, **own)
