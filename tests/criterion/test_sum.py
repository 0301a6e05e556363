"""Sums of losses, losses of the embeddings alone, weights of classes and of hard samples."""

import math

import pytest
import torch

import nearfar
from nearfar.errors import NearfarError
from nearfar.losses import Sum
from problems import BACKENDS, batch


def test_is_the_weighted_sum_of_its_parts():
    x, labels = batch(5, 3, 6)
    x.requires_grad_()
    torch.manual_seed(0)
    total = Sum({"proxy_anchor": 1.0, "contrastive": 0.2, "uniformity": -0.5}, classes=labels, dim=6).double()
    value = total(x, labels)
    parts = {name: loss(x, labels) for name, loss in total.losses.items()}
    expected = parts["proxy_anchor"] + 0.2 * parts["contrastive"] - 0.5 * parts["uniformity"]
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, [x, *total.parameters()]),
        torch.autograd.grad(expected, [x, *total.parameters()]),
    )
    assert total.parts.keys() == parts.keys()
    for name, part in total.parts.items():
        assert part == parts[name]
        assert not part.requires_grad


def test_losses_made_before_and_one_name_twice():
    x, labels = batch(4, 3, 6)
    hard = nearfar.losses.create("triplet", mining="hard")
    total = Sum({"triplet": 1.0, hard: 0.5})
    total(x, labels)
    assert list(total.parts) == ["triplet", "triplet_2"]
    assert "0.5" in repr(total)


def test_weights_ids_and_candidates_reach_the_losses_that_take_them():
    x, labels = batch(4, 3, 6)
    weights, ids = torch.rand(12, dtype=torch.float64), torch.arange(12)
    torch.manual_seed(0)
    total = Sum({"supcon": 1.0, "arcface": 1.0, "proxy_anchor": 1.0, "l2_norm": 1.0}, classes=labels, dim=6)
    total = total.double()
    value = total(x, labels, x, labels, weights=weights, ids=ids, candidate_ids=ids)
    each = total.losses
    expected = (
        each["supcon"](x, labels, x, labels, weights=weights, ids=ids, candidate_ids=ids)
        + each["arcface"](x, labels, weights=weights)
        + each["proxy_anchor"](x, labels)
        + each["l2_norm"](x, labels, weights=weights)
    )
    torch.testing.assert_close(value, expected)


def test_a_memory_takes_in_the_batch_once():
    x, labels = batch(4, 3, 6)
    memory, alone = nearfar.CrossBatchMemory(64), nearfar.CrossBatchMemory(64)
    total = Sum({"contrastive": 1.0, "triplet": 1.0, "l2_norm": 0.1})
    losses = [nearfar.losses.create("contrastive"), nearfar.losses.create("triplet")]
    for step in range(3):
        turned = (x + 0.1 * step).requires_grad_()
        value = total(turned, labels, memory=memory)
        with alone.one_step():
            values = [loss(turned, labels, memory=alone) for loss in losses]
        torch.testing.assert_close(value, sum(values) + 0.1 * turned.square().sum(1).mean() / 2)
        assert len(memory) == 12 * (step + 1)


def test_state_has_every_loss():
    x, labels = batch(4, 3, 6)
    names = {"curricular_face": 1.0, "margin": 1.0}
    first, second = (Sum(names, classes=labels, dim=6) for _ in range(2))
    first(x.float(), labels)
    second.load_state_dict(first.state_dict())
    assert second.eval()(x.float(), labels) == first.eval()(x.float(), labels)


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        ({}, "needs one or more"),
        ({"triplet": "1"}, "the weight of a loss must be a number; got '1'"),
        ({"triplett": 1.0}, "Did you mean 'triplet'"),
        ({3: 1.0}, "a sum is of losses or their names; got int"),
        ({"arcface": 1.0}, "create it with classes"),
    ],
)
def test_sum_refuses(losses, sentence):
    with pytest.raises(NearfarError, match=sentence):
        Sum(losses)


def test_sum_refuses_values_per_anchor():
    with pytest.raises(NearfarError, match="a sum is of scalars"):
        Sum({nearfar.losses.create("triplet", reduction="none"): 1.0})


def test_l2_norm_with_npair_is_that_of_the_public_code():
    """λ/4 (mean |anchor|² + mean |positive|²), here over a batch of both."""
    x = 2 * batch(6, 2, 8)[0]
    labels = torch.arange(6).repeat_interleave(2)
    npair = nearfar.losses.create("npair", similarity="dot")
    value = Sum({npair: 1.0, "l2_norm": 0.002})(x, labels)
    square = x.square().sum(1)
    expected = npair(x, labels) + 0.25 * 0.002 * (square[::2].mean() + square[1::2].mean())
    torch.testing.assert_close(value, expected)


def test_zero_mean_by_hand():
    x = torch.tensor([[1.0, 2.0, -4.0], [1.0, -1.0, 0.0]], requires_grad=True)
    value = nearfar.losses.create("zero_mean", reduction="sum")(x, torch.tensor([0, 0]))
    assert value.item() == 1.0
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient.tolist() == [[-1, -1, -1], [0, 0, 0]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("similarity", ["cosine", "squared_euclidean"])
def test_uniformity_is_the_definition(backend, similarity):
    x, labels = batch(3, 3, 5)
    x = (1.5 * x).requires_grad_()
    loss = nearfar.losses.create("uniformity", sharpness=1.3, similarity=similarity, backend=backend)
    y = x / x.norm(dim=1, keepdim=True) if similarity == "cosine" else x
    pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
    potential = torch.stack([torch.exp(-1.3 * ((y[i] - y[j]) ** 2).sum()) for i, j in pairs])
    expected = torch.log(potential.mean())
    value = loss(x, labels)
    torch.testing.assert_close(value, expected)
    (ours,), (theirs,) = torch.autograd.grad(value, x), torch.autograd.grad(expected, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
    assert loss(x, torch.zeros(9, dtype=torch.long)) == loss(x, torch.arange(9))  # labels play no part


@pytest.mark.parametrize("name", ["l2_norm", "zero_mean", "uniformity"])
def test_embeddings_alone_at_the_edges(name):
    loss = nearfar.losses.create(name)
    for x in (torch.ones(1, 4), torch.ones(3, 4), torch.zeros(3, 4), torch.zeros(0, 4)):
        x.requires_grad_()
        value = loss(x, torch.zeros(len(x), dtype=torch.long))
        (gradient,) = torch.autograd.grad(value, x)
        assert value.isfinite()
        assert gradient.isfinite().all()
    with pytest.raises(NearfarError, match="looks at the embeddings alone; call it without candidates"):
        loss(x, torch.zeros(0).long(), x, torch.zeros(0).long())
    with pytest.raises(NearfarError, match="looks at the embeddings alone; call it without memory"):
        loss(x, torch.zeros(0).long(), memory=nearfar.CrossBatchMemory(4))


def test_uniformity_refuses():
    x, labels = batch(2, 2, 3)
    with pytest.raises(NearfarError, match="uniformity is of squared distances"):
        nearfar.losses.create("uniformity", similarity="dot")(x, labels)
    with pytest.raises(NearfarError, match="sharpness must be positive"):
        nearfar.losses.create("uniformity", sharpness=0.0)(x, labels)


def test_class_weights_by_label_and_in_order():
    x, labels = batch(4, 3, 6)
    each = nearfar.losses.create("supcon", reduction="none")(x, labels)
    w = torch.tensor([1.0, 5.0, 1.0, 0.5], dtype=torch.float64)[labels]
    expected = (w * each).sum() / w.sum()
    for given in ({1: 5, 3: 0.5}, [1, 5, 1, 0.5], torch.tensor([1, 5, 1, 0.5])):
        loss = nearfar.losses.create("supcon", class_weights=given)
        torch.testing.assert_close(loss(x, labels), expected)
        extra = torch.rand(12, dtype=torch.float64)
        both = (w * extra * each).sum() / (w * extra).sum()
        torch.testing.assert_close(loss(x, labels, weights=extra), both)
        assert any("weights" in key for key in loss.state_dict())


def test_class_weights_are_in_order_of_the_labels_of_a_loss_with_classes():
    loss = nearfar.losses.create("cosface", classes=[30, 10, 20], dim=4, class_weights=[1.0, 2.0, 0.0])
    plain = nearfar.losses.create("cosface", classes=[30, 10, 20], dim=4, reduction="none")
    with torch.no_grad():
        plain.proxies.copy_(loss.proxies)
    x, labels = torch.randn(3, 4), torch.tensor([10, 20, 30])
    each = plain(x, labels)
    torch.testing.assert_close(loss(x, labels), (each[0] + 2 * each[1]) / 3)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([1.0, -1.0], "must not be negative; got -1"),
        ({"a": 1.0}, "must be numbers, by label or one for each class"),
        ([1.0, 2.0], "label 2 has no weight: class_weights has 2"),
    ],
)
def test_class_weights_refuse(given, sentence):
    x, labels = batch(4, 3, 6)
    with pytest.raises(NearfarError, match=sentence):
        nearfar.losses.create("supcon", class_weights=given)(x, labels.sort().values)


def test_class_weights_of_another_number_of_classes():
    with pytest.raises(NearfarError, match="class_weights has 2 weights but there are 3 classes"):
        nearfar.losses.create("cosface", classes=3, dim=4, class_weights=[1.0, 2.0])


@pytest.mark.parametrize("tilt", [0.5, 2.0, -1.0, 50.0])
def test_tilted_mean_weighs_by_the_exponential_of_the_loss(tilt):
    x, labels = batch(4, 3, 6)
    labels[0] = 9  # one anchor without positives does not count
    x.requires_grad_()
    weights = torch.rand(12, dtype=torch.float64)
    each = nearfar.losses.create("supcon", reduction="none")(x, labels)
    value = nearfar.losses.create("supcon", reduction="tilted", tilt=tilt)(x, labels, weights=weights)
    some = torch.ones(12, dtype=torch.bool)
    some[0] = False
    powers = weights[some] * (tilt * each[some]).exp()
    torch.testing.assert_close(value, (powers.sum() / weights[some].sum()).log() / tilt)
    share = (powers / powers.sum()).detach()
    (ours,) = torch.autograd.grad(value, x)
    (expected,) = torch.autograd.grad((share * each[some]).sum(), x)
    torch.testing.assert_close(ours, expected)


def test_tilted_mean_by_hand_and_of_nothing():
    terms = nearfar.losses.Terms(*(torch.tensor(v) for v in ([0.0, math.log(3.0)], [1.0, 1.0], [0.0, 1.0])))
    assert terms.reduce("tilted").item() == pytest.approx(math.log(2))  # (1 + 3) / 2
    assert terms.reduce("tilted", torch.tensor([1.0, 0.0])).item() == pytest.approx(0)
    assert terms.reduce("tilted", torch.zeros(2)).item() == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tilt": 2.0}, "tilt is of reduction='tilted'"),
        ({"tilt": 0.0, "reduction": "tilted"}, "tilt must be above or below 0"),
    ],
)
def test_tilt_refuses(arguments, sentence):
    with pytest.raises(NearfarError, match=sentence):
        nearfar.losses.create("supcon", **arguments)
