"""Normalised softmax: cross-entropy over proxies, value and gradient; what it says when it cannot work."""

import pytest
import torch
from pytorch_metric_learning import losses
from torch.nn.functional import cross_entropy, normalize

import nearfar
from nearfar.errors import NearfarError
from problems import batch


def create(labels, dim=6, **settings):
    torch.manual_seed(0)
    return nearfar.losses.create("normalized_softmax", classes=labels, dim=dim, **settings).double()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("backend", ["dense", "reference"])
def test_is_cross_entropy_over_similarities(smoothing, backend):
    x, labels = batch(4, 3, 6, spread=0.8)
    labels = 10 * labels + 7  # any numbers will do as labels
    x.requires_grad_()
    loss = create(labels, temperature=0.1, smoothing=smoothing, backend=backend)
    logits = normalize(x, dim=1) @ normalize(loss.proxies, dim=1).T / 0.1
    expected = cross_entropy(logits, (labels - 7) // 10, label_smoothing=smoothing)
    value = loss(x, labels)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(value, [x, loss.proxies])
    theirs = torch.autograd.grad(expected, [x, loss.proxies])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_gradcheck():
    x, labels = batch(3, 2, 4)
    loss = create(labels, dim=4, temperature=0.5)

    def value(x, proxies):
        return torch.func.functional_call(loss, {"proxies": proxies}, (x, labels))

    proxies = loss.proxies.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (x.requires_grad_(), proxies))


def test_agrees_with_pytorch_metric_learning():
    x, labels = batch(5, 3, 6)
    ours = create(labels, temperature=0.05)
    theirs = losses.NormalizedSoftmaxLoss(num_classes=5, embedding_size=6, temperature=0.05).double()
    with torch.no_grad():
        theirs.W.copy_(ours.proxies.T)
    assert ours(x, labels).item() == pytest.approx(theirs(x, labels).item(), rel=1e-10)


def test_by_hand():
    """Two proxies at right angles, an embedding on the first: logits 1/τ and 0."""
    loss = create([0, 1], dim=2, temperature=0.5)
    with torch.no_grad():
        loss.proxies.copy_(torch.eye(2))
    x = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    expected = torch.log1p(torch.exp(torch.tensor(-2.0)))
    assert loss(x, torch.tensor([0])).item() == pytest.approx(expected.item())


def test_a_confident_embedding_keeps_its_digits():
    loss = nearfar.losses.create("normalized_softmax", classes=2, dim=2, temperature=0.04)
    with torch.no_grad():
        loss.proxies.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    value = loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert value.item() == pytest.approx(1.9287498479639178e-22, rel=1e-4)  # e^-50


def test_state_holds_proxies_and_their_labels():
    x, labels = batch(4, 2, 6)
    loss, other = create(labels), create(labels + 100)
    other.load_state_dict(loss.state_dict())
    assert other(x, labels) == loss(x, labels)


def test_count_of_classes():
    loss = nearfar.losses.create("normalized_softmax", classes=3, dim=4)
    assert loss.class_labels.tolist() == [0, 1, 2]
    assert loss.proxies.shape == (3, 4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "create it with classes=…"),
        ({"classes": 3}, "and dim=…"),
        ({"classes": [4, 4], "dim": 2}, "needs two classes or more; got 1"),
    ],
)
def test_create_refuses(arguments, sentence):
    with pytest.raises(NearfarError, match=sentence):
        nearfar.losses.create("normalized_softmax", **arguments)


def test_call_refuses():
    x, labels = batch(3, 2, 6)
    loss = create(labels)
    with pytest.raises(
        NearfarError, match="label 3 is not among the 3 classes that normalized_softmax was created for"
    ):
        loss(x, labels + 1)
    with pytest.raises(NearfarError, match="call it without candidates"):
        loss(x, labels, x, labels)
    with pytest.raises(NearfarError, match="temperature must be positive"):
        create(labels, temperature=0)(x, labels)
    with pytest.raises(NearfarError, match="smoothing must be at least 0"):
        create(labels, smoothing=1.0)(x, labels)
