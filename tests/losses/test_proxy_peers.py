"""The losses with proxies of pytorch-metric-learning, where their definition is ours; and where it is not."""

import math

import pytest
import torch
from pytorch_metric_learning import losses, reducers, regularizers

import nearfar
from problems import batch

DEGREES = math.degrees(0.5)
# The peer divides a numpy number by a tensor.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")

# name: (theirs(classes, dim), the name of its weights, our loss, its settings)
AGREE = {
    "proxy_anchor": (losses.ProxyAnchorLoss, "proxies", "proxy_anchor", {}),
    "proxy_nca_pp": (
        lambda c, d: losses.ProxyNCALoss(c, d, softmax_scale=3),
        "proxies",
        "proxy_nca_pp",
        {"temperature": 1 / 3},
    ),
    "soft_triple": (
        lambda c, d: losses.SoftTripleLoss(c, d, centers_per_class=3),
        "fc",
        "soft_triple",
        {"centres": 3, "merging": 0.0},
    ),
    "cosface": (losses.CosFaceLoss, "W", "cosface", {}),
    "arcface": (lambda c, d: losses.ArcFaceLoss(c, d, margin=DEGREES), "W", "arcface", {}),
    "sub_center_arcface": (
        lambda c, d: losses.SubCenterArcFaceLoss(num_classes=c, embedding_size=d, margin=DEGREES),
        "W",
        "sub_center_arcface",
        {},
    ),
    "normalized_softmax": (losses.NormalizedSoftmaxLoss, "W", "normalized_softmax", {}),
    "sphereface": (losses.SphereFaceLoss, "W", "sphereface", {}),
    "large_margin_softmax": (losses.LargeMarginSoftmaxLoss, "W", "large_margin_softmax", {}),
}


def both(name, seed=0, classes=6, dim=8):
    """Their loss and ours, with the same weights."""
    theirs, attribute, ours, settings = AGREE[name]
    torch.manual_seed(seed)
    theirs = theirs(classes, dim).double()
    loss = nearfar.losses.create(ours, classes=classes, dim=dim, **settings).double()
    weights = getattr(theirs, attribute)
    with torch.no_grad():
        weights.normal_()
        loss.proxies.copy_(weights if attribute == "proxies" else weights.T)
    return theirs, weights, loss


@pytest.mark.parametrize("name", AGREE)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees(name, seed):
    theirs, weights, ours = both(name, seed)
    x, labels = batch(6, 3, 8, spread=0.9, seed=seed)
    x = (x * torch.arange(1, 19)[:, None] / 6).requires_grad_()
    value, expected = ours(x, labels), theirs(x, labels)
    assert value.item() == pytest.approx(expected.item(), rel=1e-8)
    (grad, own), (other, there) = (
        torch.autograd.grad(value, [x, ours.proxies]),
        torch.autograd.grad(expected, [x, weights]),
    )
    torch.testing.assert_close(grad, other, rtol=1e-6, atol=1e-8 * max(1.0, other.abs().max().item()))
    if there.shape != own.shape:
        there = there.T
    torch.testing.assert_close(own, there, rtol=1e-6, atol=1e-8 * max(1.0, own.abs().max().item()))


def test_proxy_nca_of_the_peer_has_the_own_class_in_its_denominator():
    """The paper's eq. 7 leaves it out: two classes, one at 0° and one at 90°. Theirs is what came to be called NCA++."""
    theirs, _, _ = both("proxy_nca_pp", classes=2, dim=2)
    theirs.softmax_scale = 1
    paper = nearfar.losses.create("proxy_nca", classes=2, dim=2).double()
    with torch.no_grad():
        theirs.proxies.copy_(torch.eye(2))
        paper.proxies.copy_(torch.eye(2))
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert paper(x, torch.tensor([0])).item() == pytest.approx(-2.0)  # D² = 0 and 2
    assert theirs(x, torch.tensor([0])).item() == pytest.approx(math.log1p(math.exp(-2)))


def test_near_alignment_the_peer_loses_the_margin():
    """At 1e-4 radians float32 has cos θ = 1, and the derivative of the clamp before acos is 0 there.

    (Where a version of torch takes it for 1, that of acos is infinite and the gradient NaN.) Ours is that of
    float64.
    """
    found = {}
    for who, dtype in (("truth", torch.float64), ("ours", torch.float32), ("theirs", torch.float32)):
        x = torch.tensor([[math.cos(1e-4), math.sin(1e-4)]], dtype=dtype, requires_grad=True)
        if who == "theirs":
            loss = losses.ArcFaceLoss(2, 2, margin=DEGREES, scale=1)
            weights = loss.W
        else:
            loss = nearfar.losses.create("arcface", classes=2, dim=2, temperature=1.0).to(dtype)
            weights = loss.proxies
        with torch.no_grad():
            weights.copy_(torch.eye(2))
        (found[who],) = torch.autograd.grad(loss(x, torch.tensor([0])), x)
    assert found["truth"][0, 1].item() == pytest.approx(0.43, abs=0.01)
    torch.testing.assert_close(found["ours"].double(), found["truth"], rtol=1e-3, atol=1e-4)
    wrong = found["theirs"][0, 1].item()
    assert math.isnan(wrong) or abs(wrong - found["truth"][0, 1].item()) > 0.1


def test_a_confident_embedding_has_a_loss_of_exactly_0_with_the_peer():
    theirs = losses.CosFaceLoss(2, 2, scale=32)
    ours = nearfar.losses.create("cosface", classes=2, dim=2, temperature=1 / 32)
    with torch.no_grad():
        theirs.W.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        ours.proxies.copy_(theirs.W.T)
    x = torch.tensor([[1.0, 0.0]])
    assert theirs(x, torch.tensor([0])).item() == 0
    assert ours(x, torch.tensor([0])).item() == pytest.approx(math.exp(-32 * 1.65), rel=1e-3, abs=0)


def test_the_peer_recasts_its_weights_to_the_type_of_the_embeddings():
    """A half-precision batch turns float32 master weights into half precision for good."""
    theirs = losses.ArcFaceLoss(4, 8)
    ours = nearfar.losses.create("arcface", classes=4, dim=8)
    x = torch.randn(4, 8).bfloat16()
    theirs(x, torch.arange(4))
    ours(x, torch.arange(4))
    assert theirs.W.dtype == torch.bfloat16
    assert ours.proxies.dtype == torch.float32


def test_return_dominant_centers_of_the_peer_is_ignored():
    theirs = losses.SubCenterArcFaceLoss(num_classes=3, embedding_size=4)
    x, labels = torch.randn(6, 4), torch.arange(6) % 3
    assert isinstance(theirs.get_outliers(x, labels, return_dominant_centers=False), tuple)


def test_a_label_beyond_the_classes():
    """Theirs is an IndexError from within; ours is a sentence."""
    with pytest.raises((IndexError, RuntimeError)):
        losses.CosFaceLoss(3, 4)(torch.randn(2, 4), torch.tensor([0, 7]))
    with pytest.raises(nearfar.errors.NearfarError, match="label 7 is not among the 3 classes"):
        nearfar.losses.create("cosface", classes=3, dim=4)(torch.randn(2, 4), torch.tensor([0, 7]))


def test_soft_triple_of_the_peer_does_not_merge_centres():
    """The paper's second term is not there; ours has it by default (κ = 0.2)."""
    theirs, _, ours = both("soft_triple")
    x, labels = batch(6, 2, 8)
    merging = nearfar.losses.create("soft_triple", classes=6, dim=8, centres=3).double()
    merging.load_state_dict(ours.state_dict())
    assert merging(x, labels) > theirs(x, labels) + 0.01


def test_zero_mean_agrees():
    x = torch.randn(5, 8, dtype=torch.float64)
    theirs = regularizers.ZeroMeanRegularizer()(x)
    assert nearfar.losses.create("zero_mean")(x, torch.arange(5)).item() == pytest.approx(theirs.item())


def test_class_weights_of_the_peer_do_not_change_what_is_divided_by():
    """Its mean is Σ w L / n: all weights doubled double the loss. Ours is Σ w L / Σ w."""
    x, labels = batch(3, 2, 8)
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    found = []
    for w in (weights, 2 * weights):
        theirs = losses.SupConLoss(reducer=reducers.ClassWeightedReducer(w))(x, labels)
        found.append((theirs.item(), nearfar.losses.create("supcon", class_weights=w)(x, labels).item()))
    assert found[1][0] == pytest.approx(2 * found[0][0])
    assert found[1][1] == pytest.approx(found[0][1])
