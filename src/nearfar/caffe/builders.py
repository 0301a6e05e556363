"""From a layer of a definition to the module that computes it."""

from collections.abc import Callable

from torch import nn

from nearfar.caffe import layers, ordinary
from nearfar.caffe.graph import Layer, NetError, choice
from nearfar.caffe.published import npair_settings, rank_settings
from nearfar.caffe.vision import Repeat
from nearfar.errors import suggest


def build(layer: Layer, *, parity: bool = False) -> nn.Module:
    """Return the module of a layer.

    Args:
        layer: of a graph.
        parity: compute as the original did, faults included.

    Raises:
        NetError: if there is no such type, or its settings cannot be met.
        PrototxtError: if a setting is misspelt or of the wrong kind.
    """
    name = _BY_KIND.get(layer.kind)
    if name is None:
        known = sorted(_BY_KIND.values())
        raise NetError(
            f"{layer.said}: this type is not known.{suggest(layer.type, known)} Known: {', '.join(known)}."
        )
    return PARITY[name](layer, parity) if name in PARITY else PLAIN[name](layer)


def _npair(layer: Layer, parity: bool) -> nn.Module:
    return layers.NPairMultiClassLoss(**npair_settings(layer), parity=parity, tops=len(layer.tops))


def _rank_hard(layer: Layer, parity: bool) -> nn.Module:
    return layers.RankHardLoss(**rank_settings(layer), parity=parity)


def _eltwise(layer: Layer) -> nn.Module:
    given = layer.settings("eltwise_param", ("operation", "coeff", "stable_prod_grad"))
    return layers.Eltwise(
        operation=choice(given, "operation", ("PROD", "SUM", "MAX"), "SUM"),
        coeff=tuple(float(value) for value in given.numbers("coeff")),
    )


def _reduction(layer: Layer) -> nn.Module:
    given = layer.settings("reduction_param", ("operation", "axis", "coeff"))
    return layers.Reduction(
        # The enum of the proto counts from 1.
        operation=choice(given, "operation", ("", "SUM", "ASUM", "SUMSQ", "MEAN"), "SUM"),
        axis=given.whole("axis", 0),
        coeff=given.number("coeff", 1.0),
    )


def _power(layer: Layer, parity: bool) -> nn.Module:
    given = layer.settings("power_param", ("power", "scale", "shift"))
    return layers.Power(
        given.number("power", 1.0), given.number("scale", 1.0), given.number("shift", 0.0), parity=parity
    )


def _reshape(layer: Layer) -> nn.Module:
    given = layer.settings("reshape_param", ("shape", "axis", "num_axes"))
    shape = given.messages("shape")
    if not shape:
        raise NetError(f"{layer.said} needs a shape, such as reshape_param {{ shape {{ dim: 0 dim: -1 }} }}.")
    return layers.Reshape(
        tuple(shape[-1].wholes("dim")), axis=given.whole("axis", 0), num_axes=given.whole("num_axes", -1)
    )


def _concat(layer: Layer) -> nn.Module:
    given = layer.settings("concat_param", ("axis", "concat_dim"))
    return layers.Concat(axis=given.whole("axis", given.whole("concat_dim", 1)))


def _softmax(layer: Layer) -> nn.Module:
    return layers.Softmax(axis=layer.settings("softmax_param", ("axis", "engine")).whole("axis", 1))


PARITY: dict[str, Callable[[Layer, bool], nn.Module]] = {
    "NPairMultiClassLoss": _npair,
    "RankHardLoss": _rank_hard,
    "L2Normalize": lambda _, parity: layers.L2Normalize(parity=parity),
    "Norm": lambda _, parity: layers.Norm(parity=parity),
    "Power": _power,
}
"""Types whose original differs from what it says."""

PLAIN: dict[str, Callable[[Layer], nn.Module]] = {
    "Accuracy": ordinary.accuracy,
    "BatchNorm": ordinary.batch_norm,
    "Concat": _concat,
    "Convolution": ordinary.convolution,
    "Dropout": ordinary.dropout,
    "DummyData": ordinary.dummy_data,
    "Eltwise": _eltwise,
    "EuclideanLoss": lambda _: layers.EuclideanLoss(),
    "Flatten": ordinary.flatten,
    "InnerProduct": ordinary.inner_product,
    "LRN": ordinary.lrn,
    "Pooling": ordinary.pooling,
    "ReLU": ordinary.relu,
    "Reduction": _reduction,
    "Reshape": _reshape,
    "Scale": ordinary.scale,
    "Sigmoid": lambda _: nn.Sigmoid(),
    "Silence": lambda _: Repeat(0),
    "Slice": ordinary.slice_,
    "Softmax": _softmax,
    "SoftmaxWithLoss": ordinary.softmax_loss,
    "Split": lambda layer: Repeat(len(layer.tops)),
    "TanH": lambda _: nn.Tanh(),
}

_BY_KIND = {name.lower(): name for name in (*PARITY, *PLAIN)}
