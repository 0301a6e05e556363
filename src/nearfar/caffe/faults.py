"""What is wrong in published definitions although Caffe runs them: one sentence for each fault."""

from nearfar.caffe.graph import NPAIR, Graph, Layer


def faults(graph: Graph) -> list[str]:
    """Return a sentence for each known fault of a net, with its line and what to change."""
    found = []
    for layer in graph.layers:
        if is_own_difference(layer):
            found.append(
                f"{layer.said} subtracts blob {layer.bottoms[0]!r} from itself, since it lists it twice as "
                "bottom: the result is always 0 and nothing is learned. Give both embeddings, such as "
                'bottom: "x1" bottom: "x2".'
            )
        if layer.kind == NPAIR:
            found += _npair_faults(layer)
    return found


def is_own_difference(layer: Layer) -> bool:
    """Whether an Eltwise subtracts a blob from itself."""
    if layer.kind != "eltwise" or len(set(layer.bottoms)) != 1 or len(layer.bottoms) < 2:
        return False
    weights = layer.settings("eltwise_param").numbers("coeff")  # for sums only
    return len(weights) == len(layer.bottoms) and sum(weights) == 0


def _npair_faults(layer: Layer) -> list[str]:
    found = []
    if not layer.loss_weights:
        found.append(
            f"{layer.said} has no loss_weight: Caffe gives this type none of its own, so that its gradient "
            "would be 0. nearfar takes 1 for the loss; write loss_weight: 1, once for each top."
        )
    if len(layer.tops) == 1:
        found.append(
            f"{layer.said} has one top, into which Caffe writes feature_asum, while the gradient is that of "
            "the loss. nearfar gives the loss; name a second top to see both."
        )
    return found
