"""A net runs as a module: every top by name, the loss with its weights, known faults with a warning."""

import math
import warnings

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize
from torch.testing import assert_close

from caffe_definitions import DATA, NETWORK, NPAIR, RANK_HARD, triplet
from nearfar.caffe.convert import convert
from nearfar.caffe.graph import NetError
from nearfar.caffe.layers import RankHardLoss
from nearfar.errors import NearfarError


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def npair_by_hand(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The settings of NPAIR: positives up to the largest of the batch, negatives above the own worst positive."""
    s = x @ x.T
    same = (labels[:, None] == labels) & ~torch.eye(len(x), dtype=torch.bool)
    other = labels[:, None] != labels
    kept = same & (s <= s[same].max())
    hard = other & (s > s.masked_fill(~same, math.inf).min(1, keepdim=True).values - 0.05)
    total = s.exp()
    return -((total * kept).sum(1) / (total * (kept | hard)).sum(1)).log().mean()


def test_npair_head():
    net = convert(NPAIR)
    x, labels = seeded(12, 6).requires_grad_(), torch.arange(12) // 2
    tops = net({"features": x, "identity": labels})
    assert list(tops) == ["unit", "npair", "first", "five", "ten", "asum"]
    unit = x / (x.square().sum(1, keepdim=True) + 1e-7).sqrt()
    assert_close(tops["unit"], unit)
    value = npair_by_hand(unit, labels)
    assert_close(tops["npair"], value)
    assert_close(tops["asum"], unit.abs().sum() / 12)
    # All five tops have weight 1; only the first has a gradient.
    assert_close(net.loss(tops), sum(tops[name] for name in net.tops[1:]))
    (got,) = torch.autograd.grad(net.loss(tops), x)
    assert_close(got, torch.autograd.grad(value, x)[0])


def test_npair_parity_halves_the_gradient():
    x, labels = seeded(12, 6).requires_grad_(), torch.arange(12) // 2
    got = []
    for parity in (False, True):
        net = convert(NPAIR, parity=parity)
        got += torch.autograd.grad(net.loss(net({"features": x, "identity": labels})), x)
    assert_close(got[1], got[0] / 2)


def test_npair_without_loss_weight_says_that_caffe_learns_nothing():
    text = NPAIR.replace("loss_weight: 1 ", "").replace("loss_weight: 1\n", "\n")
    x, labels = seeded(12, 6).requires_grad_(), torch.arange(12) // 2
    blobs = {"features": x, "identity": labels}
    with pytest.warns(UserWarning, match=r"net:\d+: .* no loss_weight: .* gradient would be 0"):
        net = convert(text)
    assert net.loss_weights() == {"npair": 1.0}
    assert_close(net.loss(net(blobs)), net(blobs)["npair"])
    with pytest.warns(UserWarning, match="no loss_weight"):
        net = convert(text, parity=True)
    assert torch.autograd.grad(net.loss(net(blobs)), x)[0].abs().max() == 0


def test_npair_with_one_top():
    text = NPAIR.replace(' top: "first" top: "five" top: "ten" top: "asum"', "")
    text = text.replace(" loss_weight: 1" * 4, "")
    x, labels = seeded(12, 6).requires_grad_(), torch.arange(12) // 2
    blobs, unit = {"features": x, "identity": labels}, normalize(x)
    value = npair_by_hand(unit, labels)
    (gradient,) = torch.autograd.grad(value, x)
    for parity, shown in ((False, value), (True, unit.abs().sum() / 12)):
        with pytest.warns(UserWarning, match="one top, into which Caffe writes feature_asum"):
            net = convert(text, parity=parity)
        tops = net(blobs)
        assert_close(tops["npair"], shown, rtol=1e-6, atol=1e-6)
        (got,) = torch.autograd.grad(net.loss(tops), x)
        assert_close(got, gradient / (2 if parity else 1), rtol=1e-5, atol=1e-6)


def test_npair_with_three_tops_ends_in_the_asum():
    text = NPAIR.replace(' top: "five" top: "ten"', "").replace(" loss_weight: 1" * 2, "", 1)
    tops = convert(text)({"features": seeded(12, 6), "identity": torch.arange(12) // 2})
    assert tops["first"] <= 1
    assert tops["asum"] > 1


def test_triplet_softmax():
    net = convert(triplet())
    assert net.inputs == ("a", "b", "c")
    a, b, c = (seeded(8, 4, seed=i).requires_grad_() for i in range(3))
    tops = net({"a": a, "b": b, "c": c})
    near, far = (a - b).norm(dim=1), (a - c).norm(dim=1)
    assert_close(tops["near_squared"], near)  # in place: as it is at the end
    value = torch.sigmoid(near - far).square().mean()
    assert_close(tops["loss"], value)
    assert_close(torch.autograd.grad(net.loss(tops), [a, b, c]), torch.autograd.grad(value, [a, b, c]))


def test_the_published_fault_of_the_triplet_net():
    with pytest.warns(
        UserWarning, match=r"net:2: Eltwise layer 'near' subtracts blob 'a' from itself"
    ) as caught:
        net = convert(triplet(second="a"))
    assert len(caught) == 1
    a, c = seeded(8, 4).requires_grad_(), seeded(8, 4, seed=1)
    tops = net({"a": a, "c": c})
    assert tops["near"].abs().max() == 0
    net.loss(tops).backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_without_the_reshape_the_concat_fails_as_in_caffe():
    with pytest.raises(NetError, match=r"Concat layer 'both': axis 1 is out of range for a 1-D blob"):
        convert(
            triplet().replace(
                '"near_column" bottom: "far_column" top', '"near_squared" bottom: "far_squared" top'
            )
        )({name: seeded(8, 4) for name in "abc"})


def test_rank_hard_without_a_top_takes_its_name():
    net = convert(RANK_HARD)
    x, labels = normalize(seeded(16, 5)).requires_grad_(), torch.arange(16) // 2
    torch.manual_seed(3)
    tops = net({"unit": x, "label": labels})
    torch.manual_seed(3)
    layer = RankHardLoss(neg_num=4, pair_size=2, hard_ratio=0.5, rand_ratio=0.5, margin=1.0)
    assert list(tops) == ["ranking"]
    assert_close(net.loss(tops), layer(x, labels))


def test_a_whole_net_learns():
    torch.manual_seed(0)
    net = convert(DATA + NETWORK + NPAIR)
    colours = torch.rand(6, 3, 1, 1).repeat_interleave(2, 0)
    blobs = {"data": colours + 0.1 * torch.rand(12, 3, 16, 16), "identity": torch.arange(12) // 2}
    first = net(blobs)["npair"].item()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        net.loss(net(blobs)).backward()
        optimizer.step()
    assert net(blobs)["npair"].item() < first
    assert net.training
    assert not convert(DATA + NETWORK + NPAIR, phase="TEST").training


def test_shared_weights():
    text = "".join(
        f'layer {{ name: "{out}" type: "InnerProduct" bottom: "{blob}" top: "{out}" param {{ name: "w" }} '
        'param { name: "b" } inner_product_param { num_output: 2 } }\n'
        for blob, out in (("x", "u"), ("y", "v"))
    )
    net = convert(text)
    x = torch.randn(3, 4)
    tops = net({"x": x, "y": x})
    assert_close(tops["u"], tops["v"])
    assert len(list(net.parameters())) == 2


def test_weights_are_shared_by_layers_of_one_type_only():
    text = """
layer { name: "u" type: "InnerProduct" bottom: "x" top: "u" param { name: "w" } inner_product_param { num_output: 2 } }
layer { name: "s" type: "Scale" bottom: "u" top: "s" param { name: "w" } }
"""
    with pytest.raises(NetError, match="layer 's' shares weights with 'u', of another type"):
        convert(text)


def test_loss_weights_of_several_losses():
    text = """
layer { name: "scores" type: "InnerProduct" bottom: "x" top: "scores" inner_product_param { num_output: 3 } }
layer { name: "c" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "c" loss_weight: 0.3 }
layer { name: "e" type: "EuclideanLoss" bottom: "scores" bottom: "wanted" top: "e" }
layer { name: "size" type: "Reduction" bottom: "scores" top: "size" loss_weight: 0.1 reduction_param { axis: 1 } }
"""
    net = convert(text)
    blobs = {"x": torch.randn(4, 2), "label": torch.tensor([0, 1, 2, 0]), "wanted": torch.randn(4, 3)}
    tops = net(blobs)
    scores = tops["scores"]
    by_hand = 0.3 * cross_entropy(scores, blobs["label"]) + (scores - blobs["wanted"]).square().sum() / 8
    assert_close(net.loss(tops), by_hand + 0.1 * scores.sum())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'layer { name: "u" type: "InnerProdct" bottom: "x" top: "y" }',
            ["net:1", "InnerProdct layer 'u'", "not known", "Did you mean 'InnerProduct'?", "Convolution"],
        ),
        (
            'layer { name: "u" type: "Deconvolution" bottom: "x" top: "y" }',
            ["net:1", "not known", "Known: Accuracy, "],
        ),
        (NPAIR.replace("margin_diff", "margin_dif"), ["margin_dif", "Did you mean 'margin_diff'?"]),
        (NPAIR.replace("npair_loss_param", "npair_los_param"), ["Did you mean 'npair_los_param'?"]),
        (NPAIR.replace("RELATIVE_HARD", "RELATIVE_HRAD"), ["RELATIVE_HRAD", "Did you mean 'RELATIVE_HARD'?"]),
        (
            NPAIR.replace('bottom: "identity"', ""),
            ["NPairMultiClassLoss layer 'npair' cannot take 1 bottoms"],
        ),
        (
            NETWORK.replace("num_output: 4", "num_output: 4 group: 3"),
            ["Convolution layer 'conv'", "not divisible by group 3"],
        ),
        (
            triplet().replace("dim: 8 dim: 1", "dim: -8 dim: 1"),
            ["DummyData layer 'zero'", "negative"],
        ),
        (RANK_HARD.replace("pair_size: 2", "pair_size: 1"), ["net:2", "pair_size", "2 or more"]),
    ],
)
def test_what_cannot_be_built(text, words):
    with pytest.raises(NearfarError) as caught:
        convert(text)
    for word in words:
        assert word in str(caught.value)


def test_settings_of_another_layer_are_no_misspelling():
    """Caffe does not read them either."""
    head = 'layer { name: "it" bottom: "x" top: "y" type: '
    for kind, more in [
        ("Softmax", "loss_param { }"),
        ("ReLU", "prelu_param { }"),
        ("Power", "lrn_param { }"),
    ]:
        convert(f'{head} "{kind}" {more} }}')


def test_blobs_that_do_not_fit():
    net = convert(NPAIR)
    with pytest.raises(NetError, match="the net needs 'features', 'identity'; 'identity' was not given"):
        net({"features": torch.randn(4, 2)})
    with pytest.raises(NetError, match=r"no input 'identty'. Did you mean 'identity'\?"):
        net({"features": torch.randn(4, 2), "identity": torch.arange(4), "identty": torch.arange(4)})
    with pytest.raises(NetError, match=r"net:\d+: NPairMultiClassLoss layer 'npair': .* one for each"):
        net({"features": torch.randn(4, 2), "identity": torch.arange(3)})


def test_what_torch_refuses_names_the_layer():
    net = convert(NETWORK)
    net({"data": torch.randn(1, 3, 8, 8)})
    with pytest.raises(RuntimeError) as caught:
        net({"data": torch.randn(1, 2, 8, 8)})
    assert caught.value.__notes__ == ["in net:2: Convolution layer 'conv'"]


def test_a_net_without_a_loss():
    net = convert('layer { name: "r" type: "ReLU" bottom: "x" top: "x" }')
    with pytest.raises(NetError, match="has no loss"):
        net.loss(net({"x": torch.randn(2)}))


def test_enums_may_be_numbers():
    text = triplet().replace("operation: SUMSQ", "operation: 3").replace("operation: SUM ", "operation: 1 ")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = convert(text)
    blobs = {name: seeded(8, 4, seed=i) for i, name in enumerate("abc")}
    assert_close(net(blobs)["loss"], convert(triplet())(blobs)["loss"])
