"""Finds the triplet softmax of Hoffer & Ailon in a net that builds it from arithmetic layers."""

from dataclasses import dataclass

from nearfar.caffe.graph import Graph, Layer

_SHAPING = ("reshape", "flatten", "split")


@dataclass(frozen=True)
class TripletSoftmax:
    """Where a net computes it.

    Attributes:
        differences: the Eltwise layers that subtract two embeddings.
        roots: the Power layers that end each distance.
        softmax: the layer over both distances; None where the definition ends before it.
        loss: the EuclideanLoss behind; None where the definition ends before it.
    """

    differences: tuple[Layer, ...]
    roots: tuple[Layer, ...]
    softmax: Layer | None
    loss: Layer | None


def find_triplet_softmax(graph: Graph) -> TripletSoftmax | None:
    """Return where a net takes unsquared distances of embeddings, and the softmax of them if it has one.

    A distance is Eltwise (a difference) → Reduction SUMSQ → Power 0.5; the softmax follows it by Reshape,
    Concat, Softmax and EuclideanLoss.
    """
    distances = [(difference, root) for root in graph.layers if (difference := _difference(graph, root))]
    if not distances:
        return None
    differences, roots = zip(*distances, strict=True)
    softmax = next((layer for layer in graph.layers if _joins(graph, layer, roots)), None)
    loss = None
    if softmax is not None:
        losses = (layer for layer in graph.layers if layer.kind == "euclideanloss")
        loss = next(
            (layer for layer in losses if any(_above(graph, layer, b) is softmax for b in layer.bottoms)),
            None,
        )
    return TripletSoftmax(differences, roots, softmax, loss)


def _difference(graph: Graph, root: Layer) -> Layer | None:
    """Return the Eltwise layer whose length ``root`` takes, if it does."""
    if root.kind != "power" or root.settings("power_param").number("power", 1.0) != 0.5:
        return None
    squares = _source(graph, root)
    if squares is None or squares.kind != "reduction":
        return None
    if squares.settings("reduction_param").one("operation", "SUM") not in ("SUMSQ", 3):
        return None
    difference = _source(graph, squares)
    if difference is None or difference.kind != "eltwise" or len(difference.bottoms) != 2:
        return None
    weights = difference.settings("eltwise_param").numbers("coeff")
    return difference if len(weights) == 2 and sum(weights) == 0 else None


def _joins(graph: Graph, layer: Layer, roots: tuple[Layer, ...]) -> bool:
    """Whether a layer is a softmax over two of these distances."""
    if layer.kind != "softmax":
        return False
    concat = _source(graph, layer)
    if concat is None or concat.kind != "concat":
        return False
    joined = [_above(graph, concat, blob) for blob in concat.bottoms]
    return len(joined) == 2 and all(any(one is root for root in roots) for one in joined)


def _source(graph: Graph, layer: Layer) -> Layer | None:
    """Return the layer above the first bottom, if there is one."""
    return _above(graph, layer, layer.bottoms[0]) if layer.bottoms else None


def _above(graph: Graph, layer: Layer, blob: str) -> Layer | None:
    """Return the layer that makes a blob, looking through layers that only change its shape."""
    maker = graph.maker(blob, layer)
    while maker is not None and maker.kind in _SHAPING and maker.bottoms:
        maker = graph.maker(maker.bottoms[0], maker)
    return maker
