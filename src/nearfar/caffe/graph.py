"""The graph of a Caffe net: its layers in order, and the blobs that join them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from nearfar.caffe.prototxt import Message, parse, read
from nearfar.errors import NearfarError, suggest

Phase = Literal["TRAIN", "TEST"]

# Kinds of layers that more than one file asks for.
NPAIR, RANK_HARD = "npairmulticlassloss", "rankhardloss"

# Upper-case names of the old `layers` form whose letters are not those of the type.
_RENAMED = {"softmaxloss": "SoftmaxWithLoss"}

_LAYER_FIELDS = {
    "name", "type", "bottom", "top", "loss_weight", "phase", "include", "exclude", "param", "blobs_lr",
    "weight_decay", "blobs", "propagate_down", "blob_share_mode", "transform_param",
}  # fmt: skip
# Settings that belong to layers of Caffe, whatever else their names are near to.
_SETTINGS = {
    "accuracy", "argmax", "batch_norm", "bias", "concat", "contrastive_loss", "convolution", "crop",
    "data", "dropout", "dummy_data", "eltwise", "elu", "embed", "exp", "flatten", "hdf5_data",
    "hdf5_output", "hinge_loss", "image_data", "infogain_loss", "inner_product", "input", "log", "loss",
    "lrn", "memory_data", "mvn", "npair_loss", "parameter", "pooling", "power", "prelu", "python",
    "rank", "recurrent", "reduction", "relu", "reshape", "scale", "sigmoid", "slice", "softmax", "spp",
    "tanh", "threshold", "tile", "transform", "window_data",
}  # fmt: skip
_SOLVER_FIELDS = {"base_lr", "lr_policy", "max_iter", "net", "train_net"}
_BINARY = (".caffemodel", ".solverstate", ".binaryproto", ".h5")


class NetError(NearfarError):
    """A net that cannot be built: a layer, a blob or a setting in it."""


@dataclass(frozen=True)
class Layer:
    """One layer of a net.

    Attributes:
        name: as given, or its type where it has none.
        type: as given; of the old form ``INNER_PRODUCT`` as well.
        bottoms: blobs it reads.
        tops: blobs it makes; one that is also the bottom in the same place is changed in place.
        loss_weights: one for each top, or none.
        message: all it was given.
        where: file and line, for messages.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    loss_weights: tuple[float, ...]
    message: Message
    where: str

    @property
    def kind(self) -> str:
        """The type in small letters without underscores, the same for both forms of a net."""
        folded = self.type.replace("_", "").lower()
        return _RENAMED.get(folded, folded).lower()

    @property
    def said(self) -> str:
        """File, line, type and name: the start of a message."""
        return f"{self.where}: {self.type} layer {self.name!r}"

    def settings(self, name: str, known: tuple[str, ...] = ()) -> Message:
        """Return the message of the layer's settings, such as ``"pooling_param"``; empty where it has none.

        Args:
            name: of the message.
            known: the fields it may have; any without this.

        Raises:
            NetError: if the layer has no such settings but some whose name is nearly the same.
            PrototxtError: if they have an unknown field.
        """
        found = self.message.messages(name)
        if not found:
            others = [
                field.name
                for field in self.message.fields
                if field.name not in _LAYER_FIELDS and field.name.removesuffix("_param") not in _SETTINGS
            ]
            if hint := suggest(name, others):
                raise NetError(f"{self.said} reads {name!r}, which it does not have.{hint}")
            return parse("")
        for field in found[-1].unknown(known) if known else ():
            raise found[-1].error(
                f"{name} has no field {field.name!r}.{suggest(field.name, list(known))}", field
            )
        return found[-1]


@dataclass(frozen=True)
class Graph:
    """A net in one phase.

    Attributes:
        name: of the net.
        inputs: blobs that no layer makes, in order.
        layers: those of the phase in order, without the layers that only bring data.
        sources: the layers that bring data; their tops are among the inputs.
    """

    name: str
    inputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    sources: tuple[Layer, ...]

    def maker(self, blob: str, before: Layer) -> Layer | None:
        """Return the last layer above ``before`` that makes or changes a blob; None for an input."""
        above = self.layers[: next(i for i, layer in enumerate(self.layers) if layer is before)]
        return next((layer for layer in reversed(above) if blob in layer.tops), None)


def open_net(net: str | Path | Message) -> Message:
    """Return a net definition, read.

    Args:
        net: a path, the text itself (it has a brace in it), or what ``prototxt`` has read.

    Raises:
        NetError: if it is no net: weights, a solver, or something without layers.
        PrototxtError: if the text cannot be read.
    """
    if isinstance(net, Message):
        message = net
    elif isinstance(net, str) and ("{" in net or "\n" in net):
        message = parse(net, "net")
    else:
        refuse_binary(net)
        message = read(net)
    if not message.all("layer") and not message.all("layers"):
        names = {field.name for field in message.fields}
        if names & _SOLVER_FIELDS:
            raise NetError(
                f"{message.source}: this is a solver, not a net; give the net first, the solver second."
            )
        raise NetError(f"{message.source}: this is no net: it has no 'layer {{ … }}' in it.")
    return message


def refuse_binary(path: str | Path) -> None:
    """Raise where a path leads to weights instead of a text.

    Raises:
        NetError: with what to give instead.
    """
    if Path(path).suffix.lower() in _BINARY:
        raise NetError(
            f"{Path(path).name}: this is a binary file of weights; give the definition of the net, a "
            ".prototxt text."
        )


def read_graph(net: str | Path | Message, phase: Phase = "TRAIN", *, lenient: bool = False) -> Graph:
    """Return the layers of a net that take part in a phase, with every blob accounted for.

    A text that declares no input at all (no ``input:``, no layer that brings data) is a part of a net: blobs
    that it reads and does not make are its inputs.

    Args:
        net: a path, a text, or what ``prototxt`` has read.
        phase: "TRAIN" or "TEST".
        lenient: take whatever a layer reads and none makes as an input.

    Raises:
        NetError: if there is no such phase, a bottom is made by no layer above it or a top is made twice.
        PrototxtError: if the text cannot be read.
    """
    if phase not in get_args(Phase):
        hint = suggest(str(phase).upper(), ["TRAIN", "TEST"])
        raise NetError(f"phase {phase!r} is not one of TRAIN, TEST.{hint}")
    message = open_net(net)
    all_layers = list(_layers(message))
    chosen = [layer for layer in all_layers if _takes_part(layer, phase, message)]
    declared = message.texts("input")
    is_part = not declared and not any(_brings_data(layer) for layer in all_layers)
    makers: dict[str, Layer | None] = dict.fromkeys(declared)
    inputs, layers, sources = list(declared), [], []
    for layer in chosen:
        for bottom in layer.bottoms:
            if bottom in makers:
                continue
            made_later = any(bottom in later.tops for later in chosen if bottom not in later.bottoms)
            if not lenient and (made_later or not is_part):
                raise NetError(_unmade(bottom, layer, all_layers, list(makers)))
            makers[bottom] = None
            inputs.append(bottom)
        for place, top in enumerate(layer.tops):
            if top in makers and layer.bottoms[place : place + 1] != (top,):
                maker = makers[top]
                by = "an input of the net" if maker is None else f"made by layer {maker.name!r}"
                at = "" if maker is None else f" (line {maker.message.line})"
                raise NetError(
                    f"{layer.said}: its top {top!r} is {by}{at} already; give it a name of its own."
                )
            makers[top] = layer
        if _brings_data(layer):
            sources.append(layer)
            inputs += layer.tops
        else:
            layers.append(layer)
    return Graph(message.text("name", ""), tuple(inputs), tuple(layers), tuple(sources))


def choice(given: Message, name: str, words: tuple[str, ...], default: str) -> str:
    """Return the word of an enum field, which may be its number in the proto as well."""
    number = given.one(name)
    if (
        isinstance(number, int)
        and not isinstance(number, bool)
        and 0 <= number < len(words)
        and words[number]
    ):
        return words[number]
    return given.word(name, tuple(word for word in words if word), default)


def _layers(message: Message) -> Iterator[Layer]:
    for field in message.fields:
        if field.name not in ("layer", "layers"):
            continue
        if not isinstance(field.value, Message):
            raise message.error(f"{field.name} must be a message in braces.", field)
        yield _layer(field.value, f"{message.source}:{field.line}")


def _layer(given: Message, where: str) -> Layer:
    if given.messages("layer"):
        raise NetError(
            f"{where}: a layer inside of layers is the oldest form of a net; bring it up to date with "
            "Caffe's upgrade_net_proto_text first."
        )
    for field in given.fields:
        if field.name not in _LAYER_FIELDS and not field.name.endswith("_param"):
            hint = suggest(field.name, sorted(_LAYER_FIELDS))
            raise given.error(f"a layer has no field {field.name!r}.{hint}", field)
    kind = given.one("type")
    if kind is None:
        raise NetError(f'{where}: this layer has no type; add one, such as type: "InnerProduct".')
    tops = tuple(given.texts("top"))
    name = given.text("name", str(kind))
    if not tops and str(kind).endswith("Loss"):
        tops = (name,)  # Caffe makes a top for a loss that names none
    weights = tuple(float(weight) for weight in given.numbers("loss_weight"))
    if weights and len(weights) != len(tops):
        raise NetError(
            f"{where}: {kind} layer {name!r} has {len(tops)} tops but {len(weights)} loss_weight; give one "
            "for each top, or none."
        )
    return Layer(name, str(kind), tuple(given.texts("bottom")), tops, weights, given, where)


def _brings_data(layer: Layer) -> bool:
    """Whether a layer only brings data in; a DummyData of constants is computed instead."""
    if layer.bottoms or not layer.tops:
        return False
    return layer.kind == "input" or (layer.kind.endswith("data") and layer.kind != "dummydata")


def _takes_part(layer: Layer, phase: Phase, net: Message) -> bool:
    include, exclude = layer.message.messages("include"), layer.message.messages("exclude")
    if include and exclude:
        raise NetError(f"{layer.said} has both include and exclude rules; Caffe takes one kind.")
    own = layer.message.word("phase", ("TRAIN", "TEST"), None)
    if own not in (None, phase):
        return False
    state = net.messages("state")[-1] if net.messages("state") else parse("")
    if include:
        return any(_matches(rule, phase, state) for rule in include)
    return not any(_matches(rule, phase, state) for rule in exclude)


def _matches(rule: Message, phase: Phase, state: Message) -> bool:
    """Whether a NetStateRule holds; the level and the stages are those of the net's own ``state``."""
    level, stages = state.number("level", 0), set(state.texts("stage"))
    return (
        rule.word("phase", ("TRAIN", "TEST"), phase) == phase
        and rule.number("min_level", level) <= level <= rule.number("max_level", level)
        and set(rule.texts("stage")) <= stages
        and not set(rule.texts("not_stage")) & stages
    )


def _unmade(bottom: str, layer: Layer, everything: list[Layer], known: list[str]) -> str:
    text = f"{layer.where}: bottom {bottom!r} of layer {layer.name!r} is made by no layer above it"
    makers = [maker for maker in everything if bottom in maker.tops and maker is not layer]
    if makers:
        at = f"layer {makers[0].name!r} ({makers[0].where})"
        return f"{text}, only by {at}, below it or of another phase or stage."
    return f"{text}.{suggest(bottom, known) or ' Make it, or declare it as an input.'}"
