"""Layers of ordinary networks against torch written out, where Caffe's windows and statistics differ."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, cross_entropy, local_response_norm
from torch.testing import assert_close

from nearfar.caffe.convert import CaffeNet, convert
from nearfar.caffe.graph import NetError
from nearfar.errors import NearfarError


def net(
    kind: str, more: str = "", tops: str = 'top: "y"', bottoms: str = 'bottom: "x"', phase: str = "TRAIN"
) -> CaffeNet:
    return convert(f'layer {{ name: "it" type: "{kind}" {bottoms} {tops} {more} }}', phase=phase)


def out(kind: str, x: Tensor, more: str = "") -> Tensor:
    return net(kind, more)({"x": x})["y"]


@pytest.mark.parametrize(
    ("kind", "side", "kernel", "stride", "pad"),
    [
        ("MAX", 7, 3, 2, 0),
        ("MAX", 6, 3, 2, 0),
        ("MAX", 6, 3, 2, 1),
        ("AVE", 6, 3, 2, 1),
        ("AVE", 7, 2, 2, 0),
        ("AVE", 5, 3, 2, 1),
    ],
)
def test_pooling_hangs_over_the_edge(kind, side, kernel, stride, pad):
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    got = out(
        "Pooling", x, f"pooling_param {{ pool: {kind} kernel_size: {kernel} stride: {stride} pad: {pad} }}"
    )
    count = math.ceil((side + 2 * pad - kernel) / stride) + 1
    if pad and (count - 1) * stride >= side + pad:
        count -= 1
    assert got.shape == (2, 3, count, count)
    for i in range(count):
        for j in range(count):
            top, left = i * stride - pad, j * stride - pad
            bottom, right = min(top + kernel, side + pad), min(left + kernel, side + pad)
            window = x[:, :, max(top, 0) : min(bottom, side), max(left, 0) : min(right, side)]
            if kind == "MAX":
                wanted = window.amax((2, 3))
            else:
                wanted = window.sum((2, 3)) / ((bottom - top) * (right - left))
            assert_close(got[:, :, i, j], wanted)


def test_global_pooling_and_floor():
    x = torch.randn(2, 3, 6, 6)
    assert_close(
        out("Pooling", x, "pooling_param { pool: AVE global_pooling: true }"), x.mean((2, 3), keepdim=True)
    )
    assert out("Pooling", x, "pooling_param { kernel_size: 3 stride: 2 round_mode: FLOOR }").shape[-1] == 2


def test_convolution_and_its_fillers():
    x = torch.randn(2, 4, 9, 9)
    made = net(
        "Convolution",
        "convolution_param { num_output: 6 kernel_h: 3 kernel_w: 1 stride: 2 pad: 1 group: 2 "
        'weight_filler { type: "msra" } bias_filler { type: "constant" value: 0.2 } }',
    )
    got = made({"x": x})["y"]
    weight, bias = made.parameters()
    assert weight.shape == (6, 2, 3, 1)
    assert bias.tolist() == pytest.approx([0.2] * 6)
    assert_close(got, conv2d(x, weight, bias, (2, 2), (1, 1), 1, 2))


@pytest.mark.parametrize(
    ("filler", "least", "most", "deviation"),
    [
        ('type: "xavier"', -((3 / 300) ** 0.5), (3 / 300) ** 0.5, (1 / 300) ** 0.5),
        ('type: "xavier" variance_norm: FAN_OUT', -((3 / 200) ** 0.5), (3 / 200) ** 0.5, (1 / 200) ** 0.5),
        ('type: "msra"', -1, 1, (2 / 300) ** 0.5),
        ('type: "gaussian" std: 0.01', -0.1, 0.1, 0.01),
        ('type: "uniform" min: -1 max: 1', -1, 1, (1 / 3) ** 0.5),
        ("value: 0.5", 0.5, 0.5, 0.0),
    ],
)
def test_fillers(filler, least, most, deviation):
    torch.manual_seed(0)
    made = net("InnerProduct", f"inner_product_param {{ num_output: 200 weight_filler {{ {filler} }} }}")
    made({"x": torch.zeros(1, 300)})
    weight = next(p for p in made.parameters() if p.ndim == 2).detach()
    assert weight.min() >= least
    assert weight.max() <= most
    assert weight.std().item() == pytest.approx(deviation, rel=0.02, abs=1e-7)


def test_batch_norm_keeps_running_sums():
    x = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(2)) * 3 + 1
    made = net("BatchNorm", "batch_norm_param { moving_average_fraction: 0.9 }")
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    wanted = (x - mean.view(1, 3, 1, 1)) / (variance + 1e-5).sqrt().view(1, 3, 1, 1)
    for _ in range(3):
        assert_close(made({"x": x})["y"], wanted)
    made.eval()
    unbiased = x.var((0, 2, 3), correction=1)
    wanted = (x - mean.view(1, 3, 1, 1)) / (unbiased + 1e-5).sqrt().view(1, 3, 1, 1)
    assert_close(made({"x": x})["y"], wanted)


def test_scale_learns_a_factor_for_each_channel():
    x = torch.randn(4, 3, 2, 2)
    made = net("Scale", "scale_param { bias_term: true }")
    assert_close(made({"x": x})["y"], x)
    assert sorted(p.shape for p in made.parameters()) == [(3,), (3,)]
    made = net("Scale", "scale_param { axis: 0 }", bottoms='bottom: "x" bottom: "f"')
    factor = torch.randn(4)
    assert_close(made({"x": x, "f": factor})["y"], x * factor.view(4, 1, 1, 1))


def test_scale_starts_as_its_fillers_say():
    x = torch.randn(2, 3)
    more = "scale_param { bias_term: true filler { value: 2 } bias_filler { value: 5 } }"
    assert_close(out("Scale", x, more), 2 * x + 5)
    assert_close(out("Scale", x, "scale_param { bias_term: true }"), x)


def test_simple_layers():
    x = torch.randn(4, 6, 2, 2)
    assert_close(out("ReLU", x, "relu_param { negative_slope: 0.1 }"), torch.where(x > 0, x, 0.1 * x))
    assert_close(out("Sigmoid", x), x.sigmoid())
    assert_close(out("TanH", x), x.tanh())
    assert_close(out("Flatten", x), x.flatten(1))
    assert_close(
        out("LRN", x, "lrn_param { local_size: 3 alpha: 0.1 }"), local_response_norm(x, 3, 0.1, 0.75, 1.0)
    )
    assert_close(net("Dropout", phase="TEST")({"x": x})["y"], x)
    assert (out("Dropout", x, "dropout_param { dropout_ratio: 0.9 }") == 0).any()
    assert net("Silence", tops="")({"x": x}) == {}
    stacked = net("Concat", "concat_param { concat_dim: 0 }", bottoms='bottom: "x" bottom: "x"')({"x": x})[
        "y"
    ]
    assert_close(stacked, torch.cat([x, x]))
    both = net("Split", tops='top: "u" top: "v"')({"x": x})
    assert both["u"] is both["v"]


def test_slice_cuts_a_batch_into_its_branches():
    x = torch.randn(6, 2)
    tops = 'top: "a" top: "b" top: "c"'
    cut = net("Slice", "slice_param { axis: 0 }", tops)({"x": x})
    assert_close(torch.stack(list(cut.values())), x.view(3, 2, 2))
    cut = net("Slice", "slice_param { axis: 0 slice_point: 1 slice_point: 3 }", tops)({"x": x})
    assert [len(part) for part in cut.values()] == [1, 2, 3]
    with pytest.raises(NetError, match="axis 1 has length 2, which 3 equal parts do not divide"):
        net("Slice", "", tops)({"x": x})


def test_accuracy():
    scores, labels = torch.tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 0.0]]), torch.tensor([1.0, 1.0])
    made = net("Accuracy", bottoms='bottom: "x" bottom: "l"')
    assert made({"x": scores, "l": labels})["y"] == 0.5
    made = net("Accuracy", "accuracy_param { ignore_label: 9 }", bottoms='bottom: "x" bottom: "l"')
    assert made({"x": scores, "l": torch.tensor([1.0, 9.0])})["y"] == 1
    assert made({"x": scores, "l": torch.tensor([9.0, 1.0])})["y"] == 0


@pytest.mark.parametrize(
    ("more", "divisor"),
    [
        ("loss_param { ignore_label: 9 }", 7),
        ("loss_param { ignore_label: 9 normalize: false }", 2),
        ("loss_param { ignore_label: 9 normalization: FULL normalize: false }", 8),
        ("loss_param { ignore_label: 9 normalization: NONE }", 1),
        ("loss_param { ignore_label: 9 normalization: 2 }", 2),
        ("loss_param { ignore_label: 9 } softmax_param { axis: 1 }", 7),
    ],
)
def test_what_a_softmax_loss_is_divided_by(more, divisor):
    """Two rows of four places, of which one is left out."""
    scores = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 2, 0], [1, 1, 2, 9]])
    made = net("SoftmaxWithLoss", more, bottoms='bottom: "x" bottom: "l"')
    total = cross_entropy(scores, labels, ignore_index=9, reduction="sum")
    assert_close(made({"x": scores, "l": labels})["y"], total / divisor)


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }", "stochastic"),
        ("Pooling", "pooling_param { kernel_size: 2 pad: 2 }", "half of the kernel"),
        ("Pooling", "pooling_param { pool: MAX }", "kernel_size"),
        ("Convolution", "convolution_param { num_output: 2 }", "needs kernel_size"),
        ("Convolution", "", "num_output"),
        (
            "Convolution",
            'convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "xaver" } }',
            "Did you mean 'xavier'",
        ),
        ("Convolution", "convolution_param { num_output: 2 kernel_size: 1 axis: 2 }", "only axis 1"),
        ("Accuracy", "accuracy_param { axis: 2 }", "only axis 1"),
        ("SoftmaxWithLoss", "softmax_param { axis: 0 }", "only axis 1"),
        ("SoftmaxWithLoss", "loss_param { normalise: false }", "Did you mean 'normalize'"),
        ("LRN", "lrn_param { norm_region: WITHIN_CHANNEL }", "ACROSS_CHANNELS"),
        ("Reshape", "", "needs a shape"),
        (
            "DummyData",
            'dummy_data_param { shape { dim: 2 } data_filler { type: "gaussian" } }',
            "constant fillers",
        ),
        ("DummyData", "", "0 shapes"),
    ],
)
def test_settings_that_cannot_be_met(kind, more, words):
    with pytest.raises(NearfarError, match=words):
        net(kind, more, bottoms="" if kind == "DummyData" else 'bottom: "x"')
