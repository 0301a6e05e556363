"""A Caffe net as a torch module: blobs by name in, every top by name out.

net = nearfar.caffe.convert.convert("triplet.prototxt")
tops = net({"x1": anchor, "x2": positive, "x3": negative})
net.loss(tops).backward()
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nearfar.caffe.builders import build
from nearfar.caffe.faults import faults
from nearfar.caffe.graph import NPAIR, Graph, Layer, NetError, Phase, read_graph
from nearfar.caffe.prototxt import Message, PrototxtError
from nearfar.errors import NearfarError, suggest

log = logging.getLogger("nearfar")


class CaffeNet(nn.Module):
    """A net of Caffe layers, run in their order. `convert` makes it.

    Args:
        graph: the layers.
        modules: what computes each; layers that share weights share a module.
        parity: compute as the originals did, faults included.

    Attributes:
        inputs: blobs to give: those that no layer makes.
        tops: blobs that come back, in the order in which they are made.
    """

    def __init__(self, graph: Graph, modules: Sequence[nn.Module], *, parity: bool = False) -> None:
        super().__init__()
        self.graph, self.parity = graph, parity
        self.inputs = graph.inputs
        self.tops = tuple(dict.fromkeys(top for layer in graph.layers for top in layer.tops))
        self.layers = nn.ModuleList(modules)

    def forward(self, blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return every top by name; one that is changed in place, as it is at the end.

        Args:
            blobs: a tensor for each of ``inputs``.

        Raises:
            NetError: if an input is missing or unknown, or a layer cannot take its bottoms.
        """
        self._check(blobs)
        held = dict(blobs)
        for layer, module in zip(self.graph.layers, self.layers, strict=True):
            try:
                made = module(*(held[bottom] for bottom in layer.bottoms))
            except NearfarError as error:
                raise NetError(f"{layer.said}: {error}") from error
            except (RuntimeError, IndexError) as error:
                error.add_note(f"in {layer.said}")  # torch's own error, no memory included, keeps its type
                raise
            held.update(self._named(layer, made))
        return {top: held[top] for top in self.tops}

    def loss(self, tops: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Return the sum of the tops, each times its loss weight, as Caffe adds them up.

        Tops of several values are summed. Without ``loss_weight`` the first top of a type that ends in "Loss"
        has weight 1, all others 0. Of NPairMultiClassLoss it is 0 with parity, as in the original.

        Raises:
            NetError: if no top has a weight.
        """
        parts = [weight * tops[top].sum() for top, weight in self.loss_weights().items()]
        if not parts:
            raise NetError("this net has no loss: no layer ends in 'Loss' and none has a loss_weight.")
        return torch.stack(parts).sum()

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of each top that has one."""
        weights: dict[str, float] = {}
        for layer in self.graph.layers:
            if layer.loss_weights:
                weights |= zip(layer.tops, layer.loss_weights, strict=True)
            elif layer.kind.endswith("loss"):
                weights[layer.tops[0]] = 0.0 if self.parity and layer.kind == NPAIR else 1.0
        return weights

    def _check(self, blobs: Mapping[str, Tensor]) -> None:
        missing = [name for name in self.inputs if name not in blobs]
        if missing:
            raise NetError(
                f"the net needs {', '.join(map(repr, self.inputs))}; {missing[0]!r} was not given."
            )
        for name in blobs:
            if name not in self.inputs:
                raise NetError(f"the net has no input {name!r}.{suggest(name, list(self.inputs))}")

    def _named(
        self, layer: Layer, made: Tensor | Sequence[Tensor] | Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return what a layer made under the names of its tops."""
        if isinstance(made, Tensor):
            values: Sequence[Tensor] = [made]
        elif isinstance(made, Mapping):
            values = list(made.values())
        else:
            values = made
        if len(values) != len(layer.tops):
            raise NetError(f"{layer.said} makes {len(values)} tops but {len(layer.tops)} are named.")
        return dict(zip(layer.tops, values, strict=True))


def convert(net: str | Path | Message, *, phase: Phase = "TRAIN", parity: bool = False) -> CaffeNet:
    """Return a net definition as a module, in training mode or, of phase TEST, in evaluation mode.

    Weights take their shapes from the first batch. Fillers are followed; without one, weights start as
    PyTorch starts them.

    Args:
        net: a path, the text itself, or what ``prototxt.read`` returns.
        phase: which layers take part.
        parity: compute as the original layers did, faults included; see ``nearfar.caffe.layers``.

    Raises:
        PrototxtError: if the text cannot be read, with file, line and column.
        NetError: for a layer of unknown type, a bottom that nothing makes, a top that is made twice.
    """
    graph = read_graph(net, phase)
    for fault in faults(graph):
        warnings.warn(fault, stacklevel=2)
    ignored = [layer for layer in graph.layers if _has_multipliers(layer)]
    if ignored:
        log.info(
            "lr_mult and decay_mult of %d layers are left out: the optimiser decides them.", len(ignored)
        )
    made = CaffeNet(graph, _modules(graph, parity), parity=parity)
    return made.train(phase == "TRAIN")


def _modules(graph: Graph, parity: bool) -> list[nn.Module]:
    """Build each layer; those that give their weights the same names share one module."""
    modules: list[nn.Module] = []
    shared: dict[tuple[str, ...], tuple[Layer, nn.Module]] = {}
    for layer in graph.layers:
        names = tuple(given.text("name", "") for given in layer.message.messages("param"))
        found = shared.get(names) if any(names) else None
        if found is not None:
            if found[0].kind != layer.kind:
                raise NetError(f"{layer.said} shares weights with {found[0].name!r}, of another type.")
            modules.append(found[1])
            continue
        modules.append(_built(layer, parity))
        if any(names):
            shared[names] = layer, modules[-1]
    return modules


def _built(layer: Layer, parity: bool) -> nn.Module:
    try:
        module = build(layer, parity=parity)
    except (NetError, PrototxtError):
        raise
    except (ValueError, RuntimeError) as error:  # ours and torch's, about a setting
        raise NetError(f"{layer.said}: {error}") from error
    try:
        signature(module.forward).bind(*layer.bottoms)
    except TypeError:
        raise NetError(f"{layer.said} cannot take {len(layer.bottoms)} bottoms.") from None
    return module


def _has_multipliers(layer: Layer) -> bool:
    given = layer.message.messages("param")
    return any(one.number(name, 1.0) != 1.0 for one in given for name in ("lr_mult", "decay_mult"))
