"""Layers of ordinary networks: from their settings to the module."""

from torch import nn

from nearfar.caffe.fillers import check_filler
from nearfar.caffe.graph import Layer, NetError, choice
from nearfar.caffe.prototxt import Message
from nearfar.caffe.vision import Accuracy, Constant, Flatten, Pooling, Slice, SoftmaxWithLoss
from nearfar.caffe.weighted import BatchNorm, Convolution, InnerProduct, Scale

_WINDOW = ("kernel_size", "kernel_h", "kernel_w", "stride", "stride_h", "stride_w", "pad", "pad_h", "pad_w")
_WEIGHTS = ("num_output", "bias_term", "weight_filler", "bias_filler", "axis")


def inner_product(layer: Layer) -> nn.Module:
    """InnerProduct."""
    given = layer.settings("inner_product_param", (*_WEIGHTS, "transpose"))
    return InnerProduct(
        _outputs(layer, given),
        bias_term=given.flag("bias_term", True),
        axis=given.whole("axis", 1),
        transpose=given.flag("transpose", False),
        fillers=_fillers(given),
    )


def convolution(layer: Layer) -> nn.Module:
    """Convolution over 2 axes."""
    others = ("dilation", "group", "engine", "force_nd_im2col")
    given = layer.settings("convolution_param", (*_WEIGHTS, *_WINDOW, *others))
    _along_channels(layer, given)
    outputs, group = _outputs(layer, given), given.whole("group", 1)
    if group < 1 or outputs % group:
        raise NetError(f"{layer.said}: num_output {outputs} is not divisible by group {group}.")
    return Convolution(
        outputs,
        kernel=_window(layer, given, "kernel_size", "kernel", None),
        stride=_window(layer, given, "stride", "stride", 1),
        pad=_window(layer, given, "pad", "pad", 0),
        dilation=_window(layer, given, "dilation", "dilation", 1),
        group=group,
        bias_term=given.flag("bias_term", True),
        fillers=_fillers(given),
    )


def pooling(layer: Layer) -> nn.Module:
    """Pooling, MAX or AVE."""
    given = layer.settings("pooling_param", ("pool", *_WINDOW, "global_pooling", "round_mode", "engine"))
    kind = choice(given, "pool", ("MAX", "AVE", "STOCHASTIC"), "MAX")
    if kind == "STOCHASTIC":
        raise NetError(f"{layer.said}: stochastic pooling is not supported; use MAX or AVE.")
    everything = given.flag("global_pooling", False)
    kernel = (1, 1) if everything else _window(layer, given, "kernel_size", "kernel", None)
    pad = _window(layer, given, "pad", "pad", 0)
    if any(2 * p > k for p, k in zip(pad, kernel, strict=True)):
        raise NetError(f"{layer.said}: pad {pad} is more than half of the kernel {kernel}; make it smaller.")
    return Pooling(
        kind,
        kernel=kernel,
        stride=_window(layer, given, "stride", "stride", 1),
        pad=pad,
        everything=everything,
        ceil=choice(given, "round_mode", ("CEIL", "FLOOR"), "CEIL") == "CEIL",
    )


def batch_norm(layer: Layer) -> nn.Module:
    """BatchNorm."""
    known = ("use_global_stats", "moving_average_fraction", "eps")
    given = layer.settings("batch_norm_param", known)
    return BatchNorm(
        given.flag("use_global_stats", None),
        fraction=given.number("moving_average_fraction", 0.999),
        eps=given.number("eps", 1e-5),
    )


def scale(layer: Layer) -> nn.Module:
    """Scale."""
    given = layer.settings("scale_param", ("axis", "num_axes", "bias_term", "filler", "bias_filler"))
    return Scale(
        given.whole("axis", 1),
        given.whole("num_axes", 1),
        bias_term=given.flag("bias_term", False),
        fillers=_fillers(given, "filler"),
    )


def lrn(layer: Layer) -> nn.Module:
    """LRN across channels."""
    given = layer.settings("lrn_param", ("local_size", "alpha", "beta", "k", "norm_region", "engine"))
    if choice(given, "norm_region", ("ACROSS_CHANNELS", "WITHIN_CHANNEL"), "ACROSS_CHANNELS")[0] == "W":
        raise NetError(f"{layer.said}: norm_region WITHIN_CHANNEL is not supported; use ACROSS_CHANNELS.")
    return nn.LocalResponseNorm(
        given.whole("local_size", 5),
        given.number("alpha", 1.0),
        given.number("beta", 0.75),
        given.number("k", 1.0),
    )


def relu(layer: Layer) -> nn.Module:
    """ReLU."""
    slope = layer.settings("relu_param", ("negative_slope", "engine")).number("negative_slope", 0.0)
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


def dropout(layer: Layer) -> nn.Module:
    """Dropout."""
    return nn.Dropout(layer.settings("dropout_param").number("dropout_ratio", 0.5))


def flatten(layer: Layer) -> nn.Module:
    """Flatten."""
    given = layer.settings("flatten_param", ("axis", "end_axis"))
    return Flatten(given.whole("axis", 1), given.whole("end_axis", -1))


def slice_(layer: Layer) -> nn.Module:
    """Slice."""
    given = layer.settings("slice_param", ("axis", "slice_dim", "slice_point"))
    axis = given.whole("axis", given.whole("slice_dim", 1))
    return Slice(len(layer.tops), axis, tuple(given.wholes("slice_point")))


def dummy_data(layer: Layer) -> nn.Module:
    """DummyData of constants."""
    given = layer.settings("dummy_data_param")
    shapes = [tuple(shape.wholes("dim")) for shape in given.messages("shape")]
    if not shapes:
        sides = [given.wholes(name) for name in ("num", "channels", "height", "width")]
        shapes = list(zip(*sides, strict=True)) if len({len(side) for side in sides}) == 1 else []
    fillers = given.messages("data_filler") or [Message([])]
    count = len(layer.tops)
    for said, number in (("shapes", len(shapes)), ("fillers", len(fillers))):
        if number not in (1, count):
            raise NetError(f"{layer.said} has {count} tops but {number} {said}; give one for each, or one.")
    if any(filler.text("type", "constant") != "constant" for filler in fillers):
        raise NetError(
            f"{layer.said}: only constant fillers are supported; declare its tops as inputs of the net and "
            "give them when it runs."
        )
    values = [float(filler.number("value", 0.0)) for filler in fillers]
    return Constant(shapes * (count // len(shapes)), values * count if len(values) == 1 else values)


def softmax_loss(layer: Layer) -> nn.Module:
    """SoftmaxWithLoss."""
    given = layer.settings("loss_param", ("ignore_label", "normalization", "normalize"))
    _along_channels(layer, layer.settings("softmax_param", ("axis", "engine")))
    return SoftmaxWithLoss(
        given.whole("ignore_label", None),
        choice(
            given,
            "normalization",
            ("FULL", "VALID", "BATCH_SIZE", "NONE"),
            "VALID" if given.flag("normalize", True) else "BATCH_SIZE",
        ),
    )


def accuracy(layer: Layer) -> nn.Module:
    """Accuracy."""
    given = layer.settings("accuracy_param", ("top_k", "axis", "ignore_label"))
    _along_channels(layer, given)
    return Accuracy(given.whole("top_k", 1), given.whole("ignore_label", None))


def _along_channels(layer: Layer, given: Message) -> None:
    if given.whole("axis", 1) != 1:
        raise NetError(f"{layer.said}: axis {given.whole('axis', 1)} is not supported; only axis 1 is.")


def _outputs(layer: Layer, given: Message) -> int:
    found = given.whole("num_output", 0)
    if found < 1:
        raise NetError(f"{layer.said} needs num_output of 1 or more; got {found}.")
    return found


def _fillers(given: Message, weights: str = "weight_filler") -> list[Message | None]:
    """Return the fillers of the weights and of the bias, checked."""
    fillers = [(given.messages(name) or [None])[-1] for name in (weights, "bias_filler")]
    for filler in fillers:
        check_filler(filler)
    return fillers


def _window(layer: Layer, given: Message, name: str, stem: str, default: int | None) -> tuple[int, int]:
    """Return (down, across) of a size that is given once, for each axis, or as ``_h`` and ``_w``."""
    both = given.wholes(name) or ([] if default is None else [default])
    down, across = given.whole(f"{stem}_h", None), given.whole(f"{stem}_w", None)
    if down is not None and across is not None:
        return down, across
    if len(both) not in (1, 2):
        raise NetError(f"{layer.said} needs {name}: once, or once for each of its 2 axes.")
    return both[0], both[-1]
