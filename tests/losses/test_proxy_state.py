"""Losses with proxies: what they keep, how they start, what weights do, and what they refuse."""

import copy
import pickle

import pytest
import torch

import nearfar
from nearfar.errors import NearfarError
from proxy_problems import EVERY, create, problem


@pytest.mark.parametrize("name", EVERY)
def test_half_precision_embeddings_leave_the_proxies_alone(name):
    x, labels = problem(6)
    loss = create(name).float()
    before = loss.proxies.detach().clone()
    whole = x.bfloat16().float().requires_grad_()
    half = x.bfloat16().requires_grad_()
    expected = copy.deepcopy(loss)(whole, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, labels)
    value.backward()
    assert value.dtype == loss.proxies.dtype == loss.proxies.grad.dtype == torch.float32
    assert half.grad.dtype == torch.bfloat16
    assert torch.equal(loss.proxies, before)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("name", EVERY)
def test_state_is_complete(name):
    """Two steps, saved, and two more in a new loss: the same as four, bit for bit."""
    x, labels = problem()

    def steps(loss, many):
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
        for _ in range(many):
            optimizer.zero_grad()
            loss(x, labels).backward()
            optimizer.step()
        return loss

    whole = steps(create(name), 4)
    first = steps(create(name), 2)
    second = create(name, seed=5)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    steps(second, 2)
    for key, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key


@pytest.mark.parametrize("name", EVERY)
def test_weights_count_anchors_that_often(name):
    x, labels = problem()
    loss = create(name).eval()  # running statistics are of the batch as it is
    times = torch.arange(len(x)) % 3
    if not loss.weighs_anchors:
        with pytest.raises(NearfarError, match="call it without weights"):
            loss(x, labels, weights=times.double())
        return
    repeated = loss(x.repeat_interleave(times, 0), labels.repeat_interleave(times))
    torch.testing.assert_close(loss(x, labels, weights=times.double()), repeated)


@pytest.mark.parametrize("name", ["curricular_face", "adaface"])
def test_running_statistics_move_in_training_only(name):
    x, labels = problem()
    loss = create(name)
    start = {k: v.clone() for k, v in loss.state_dict().items() if k.startswith("running")}
    loss.eval()(x, labels)
    assert all(torch.equal(loss.state_dict()[k], v) for k, v in start.items())
    loss.train()(x, labels)
    assert not any(torch.equal(loss.state_dict()[k], v) for k, v in start.items())
    if name == "adaface":
        assert loss.running_mean.item() == pytest.approx(0.99 * 20 + 0.01 * x.norm(dim=1).mean().item())
        spread = loss.running_spread.clone()
        loss(x[:1], labels[:1])  # one embedding has no spread
        assert torch.equal(loss.running_spread, spread * 0.99 + spread * 0.01)


def test_center_in_the_paper_moves_by_the_mean_plus_one():
    x, labels = problem()
    loss = create("center", similarity="squared_euclidean", gradient="paper")
    before = loss.proxies.detach().clone()
    loss(x, labels).backward()
    for c in range(5):
        here = x[labels == c]
        step = sum((before[c] - row for row in here), torch.zeros(6).double()) / (1 + len(here))
        torch.testing.assert_close(loss.proxies.grad[c], step)


def test_of_equal_centres_one_gets_the_gradient():
    for backend in ("dense", "tiled"):
        loss = nearfar.losses.create("sub_center_arcface", classes=3, dim=4, centres=3, backend=backend)
        with torch.no_grad():
            loss.proxies.copy_(loss.proxies[::3].repeat_interleave(3, 0))
        loss(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).backward()
        moved = loss.proxies.grad.view(3, 3, 4).abs().sum(2) > 0
        assert moved[:, 0].all()
        assert not moved[:, 1:].any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "arcface", "similarity": "dot"}, "arcface is written for similarity='cosine'; got 'dot'"),
        ({"name": "arcface", "mining": "hard"}, "create it without mining"),
        ({"name": "sub_center_arcface", "centres": 0}, "centres of sub_center_arcface must be at least 1"),
        (
            {"name": "soft_triple", "centre_temperature": 0.0},
            "centre_temperature of soft_triple must be positive",
        ),
        ({"name": "arcface", "sample": 0.0}, "sample is a share of the classes"),
        ({"name": "center", "sample": 0.5}, "create it without sample"),
        ({"name": "supcon", "sample": 0.5, "classes": None, "dim": None}, "create it without sample"),
        ({"name": "arcface", "beyond": "lin"}, "Did you mean 'line'"),
        ({"name": "proxy_nca", "similarity": "dot"}, "'cosine' or 'squared_euclidean'"),
    ],
)
def test_create_refuses(arguments, sentence):
    with pytest.raises(NearfarError, match=sentence):
        nearfar.losses.create(**{"classes": 3, "dim": 2, **arguments})


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("arcface", {"margin": 4.0}, "margin is an angle in radians"),
        ("arcface", {"temperature": 0.0}, "temperature must be positive"),
        ("cosface", {"temperature": 0.0}, "temperature must be positive"),
        ("proxy_anchor", {"alpha": 0.0}, "alpha must be positive"),
        ("proxy_nca", {"temperature": -1.0}, "temperature must be positive"),
        ("proxy_nca_pp", {"temperature": -1.0}, "temperature must be positive"),
        ("sphereface", {"margin": 0}, "margin must be a whole number of at least 1"),
        ("sphereface", {"blend": -1.0}, "blend must not be negative"),
        ("large_margin_softmax", {"temperature": 0.0}, "temperature must be positive"),
        ("soft_triple", {"merging": -1.0}, "merging must not be negative"),
        ("soft_triple", {"temperature": 0.0}, "temperature must be positive"),
        ("adaface", {"concentration": -1.0}, "concentration must not be negative"),
    ],
)
def test_settings_out_of_range(name, settings, sentence):
    x, labels = problem()
    with pytest.raises(NearfarError, match=sentence):
        create(name, **settings)(x, labels)


def test_embeddings_of_another_dimension():
    with pytest.raises(
        NearfarError, match="embeddings have 4 dimensions but the loss was created with dim=6"
    ):
        create("arcface")(torch.ones(2, 4), torch.tensor([0, 1]))


def test_a_label_that_is_not_known():
    x, labels = problem()
    with pytest.raises(NearfarError, match="label 9 is not among the 5 classes that arcface was created for"):
        create("arcface")(x, labels.index_fill(0, torch.tensor([0]), 9))


def test_starts_are_those_of_the_papers():
    torch.manual_seed(0)

    def start(name, **settings):
        return nearfar.losses.create(name, classes=2000, dim=50, **settings).proxies.detach()

    for name in ("arcface", "sub_center_arcface", "curricular_face"):
        assert start(name).std().item() == pytest.approx(0.01, rel=0.02)
    assert start("sub_center_arcface").shape == (6000, 50)
    assert start("soft_triple").shape == (20_000, 50)
    assert start("proxy_anchor").std().item() == pytest.approx((2 / 2000) ** 0.5, rel=0.02)
    assert start("proxy_nca").std().item() == pytest.approx(1 / 8, rel=0.02)
    assert start("cosface").abs().max().item() == pytest.approx((6 / 2050) ** 0.5, rel=0.01)
    assert start("soft_triple").abs().max().item() == pytest.approx(20_000**-0.5, rel=0.01)
    torch.testing.assert_close(start("sphereface").norm(dim=1), torch.ones(2000))
