"""Some classes stand for all: which, how the value and the gradient follow, and how they come again."""

import pytest
import torch

import nearfar
from nearfar.criterion.classes import choose_some
from nearfar.losses.parts.registry import registry
from proxy_oracle import definitions

SAMPLED = [name for name in definitions if registry[name].proxies.sampled]


def test_classes_of_the_batch_are_always_there():
    torch.manual_seed(0)
    place = torch.tensor([7, 3, 7, 99])
    chosen, there = choose_some(place, 100, 0.2)
    assert len(chosen) == 20 == len(chosen.unique())
    assert chosen[there].tolist() == place.tolist()
    few, _ = choose_some(torch.arange(50), 100, 0.1)
    assert few.tolist() == list(range(50))  # more in the batch than were asked for


def test_others_are_drawn_evenly():
    torch.manual_seed(0)
    place = torch.tensor([0])
    times = torch.zeros(20)
    for _ in range(2000):
        times[choose_some(place, 20, 0.25)[0]] += 1
    assert times[0] == 2000
    expected = 2000 * 4 / 19  # binomial: σ = 18
    assert (times[1:] - expected).abs().max() < 5 * 18


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("name", SAMPLED)
def test_is_the_loss_of_the_classes_chosen(name, backend):
    torch.manual_seed(0)
    loss = nearfar.losses.create(name, classes=30, dim=5, sample=0.3, backend=backend).double()
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([3, 3, 17, 29, 0, 17])
    torch.manual_seed(5)
    value = loss(x, labels)
    gradients = torch.autograd.grad(value, [x, loss.proxies])
    torch.manual_seed(5)
    chosen, place = choose_some(labels, 30, 0.3)
    k = len(loss.proxies) // 30
    w = loss.proxies.view(30, k, 5)[chosen].flatten(0, 1)
    expected = definitions[name](x, w, place)
    torch.testing.assert_close(value, expected)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, [x, loss.proxies]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9 * max(1.0, theirs.abs().max().item()))
    left = torch.ones(30, dtype=torch.bool).index_fill(0, chosen, False)
    assert not gradients[1].view(30, -1)[left].any()


def test_all_classes_in_eval_and_with_a_share_of_one():
    torch.manual_seed(0)
    whole = nearfar.losses.create("arcface", classes=30, dim=5)
    some = nearfar.losses.create("arcface", classes=30, dim=5, sample=0.2)
    some.load_state_dict(whole.state_dict())
    x, labels = torch.randn(4, 5), torch.arange(4)
    assert some(x, labels) != whole(x, labels)
    assert some.eval()(x, labels) == whole(x, labels)
    assert "sample=0.2" in repr(some)


def test_the_same_generator_gives_the_same_classes():
    torch.manual_seed(0)
    loss = nearfar.losses.create("arcface", classes=100, dim=5, sample=0.1)
    x, labels = torch.randn(4, 5), torch.arange(4)
    state = torch.get_rng_state()
    first, second = loss(x, labels), loss(x, labels)
    torch.set_rng_state(state)
    assert first != second
    assert [loss(x, labels), loss(x, labels)] == [first, second]


def test_weights_of_classes_follow_the_classes_chosen():
    torch.manual_seed(0)
    weights = torch.rand(20)
    loss = nearfar.losses.create("proxy_anchor", classes=20, dim=5, sample=0.3, class_weights=weights)
    plain = nearfar.losses.create("proxy_anchor", classes=20, dim=5, sample=0.3, reduction="none")
    plain.load_state_dict({k: v for k, v in loss.state_dict().items() if "weights" not in k})
    x, labels = torch.randn(4, 5), torch.arange(4)
    torch.manual_seed(1)
    value = loss(x, labels)
    torch.manual_seed(1)
    each = plain(x, labels)
    torch.manual_seed(1)
    chosen, place = choose_some(labels, 20, 0.3)
    w = weights[chosen]
    pull = torch.zeros(6)
    s = torch.nn.functional.cosine_similarity(x, loss.proxies[labels])
    pull[place] = torch.nn.functional.softplus(-32 * (s - 0.1)).detach()
    push = each - pull
    expected = (w * pull).sum() / w[place].sum() + (w * push).sum() / w.sum()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
