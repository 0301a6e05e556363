"""The loss of a Caffe net as a section of a recipe."""

from typing import Any

from nearfar.caffe.graph import NPAIR, RANK_HARD, Graph, Layer, NetError
from nearfar.caffe.published import METHODS, REGIONS, npair_settings, rank_settings
from nearfar.caffe.table import Draft, plain
from nearfar.caffe.triplets import TripletSoftmax, find_triplet_softmax
from nearfar.errors import suggest
from nearfar.toml import format_value

NORMS = ("l2normalize", "norm", "normalize")
LOSSES = ("NPairMultiClassLoss", "RankHardLoss")


def import_loss(graph: Graph, draft: Draft) -> Layer:
    """Write the section [loss] and its rows.

    Returns:
        The layer that first reads the embeddings.

    Raises:
        NetError: if the net has no loss that nearfar knows from Caffe.
    """
    found = [layer for layer in graph.layers if layer.kind in (NPAIR, RANK_HARD)]
    triplet = find_triplet_softmax(graph)
    if found:
        reader = found[0]
        (_npair if reader.kind == NPAIR else _rank_hard)(reader, draft)
    elif triplet is not None:
        reader = triplet.differences[0]
        _triplet(triplet, draft)
    else:
        raise NetError(_no_loss(graph))
    _similarity(graph, reader, draft)
    for other in graph.layers:
        used = other is reader or (triplet is not None and other is triplet.loss)
        if other.kind.endswith("loss") and not used:
            draft.say(f"{other.type} {other.name!r}", "-", "one loss is trained; this one is left out")
    return reader


def _npair(layer: Layer, draft: Draft) -> None:
    draft.set(
        f"NPairMultiClassLoss {layer.name!r}",
        "loss",
        {"name": "npair_mined"},
        'Caffe gave back half of the gradient (loss.gradient = "caffe"), and queries without selected '
        "positives still pushed their negatives (loss.orphan_repulsion = true)",
    )
    given = npair_settings(layer)
    mining: dict[str, Any] = {"name": "relative"}
    mining |= _side(given, draft, "positive", "ap", "identsn", "margin_ident")
    mining |= _side(given, draft, "negative", "an", "diffsn", "margin_diff")
    if any("keep" in key for key in mining):
        mining["ranking"] = "caffe"
    draft.sections["loss"]["mining"] = mining
    weights = layer.loss_weights
    if weights and weights[0] != 1:
        draft.say(f"loss_weight: {plain(weights[0])}", "-", "left out; multiply the learning rates by it")
    if len(layer.tops) > 2:
        draft.say(
            "retrieval tops", "Recall@1 of held-out classes, after each epoch", "Caffe's were of the batch"
        )


def _side(
    given: dict[str, Any], draft: Draft, side: str, letters: str, number: str, margin: str
) -> dict[str, Any]:
    """Return the mining of positives or of negatives."""
    method, region = given[f"{letters}_mining_method"], given[f"{letters}_mining_region"]
    found = f"{letters}_mining: {method}, {region}"
    if method == "RAND":
        draft.say(found, f'loss.mining: {side}_method = "all"', "RAND never drew: it takes all")
        return {f"{side}_method": METHODS[method]}
    values: dict[str, Any] = {f"{side}_method": METHODS[method], f"{side}_over": REGIONS[region]}
    differs = []
    if method.startswith("RELATIVE"):
        values[f"keep_{side}s"] = plain(given[number])
        found += f", {number}: {plain(given[number])}"
        differs.append(
            'a threshold below 0 counts as it is; Caffe took -∞ (loss.mining.negative_threshold = "all")'
        )
    if region == "GLOBAL":
        differs.append("on several GPUs GLOBAL was the batch of one")
    if given[margin]:
        values[f"{side}_shift"] = plain(given[margin])
        found += f", {margin}: {plain(given[margin])}"
    shown = ", ".join(f"{key} = {format_value(value)}" for key, value in values.items())
    draft.say(found, f"loss.mining: {shown}", "; ".join(differs))
    return values


def _rank_hard(layer: Layer, draft: Draft) -> None:
    given = rank_settings(layer)
    number, hard, drawn, margin = (given[key] for key in ("neg_num", "hard_ratio", "rand_ratio", "margin"))
    if number < 1 or not margin >= 0 or not (0 <= hard <= 1 and 0 <= drawn <= 1):
        raise NetError(
            f"{layer.said} needs neg_num of 1 or more, a margin of 0 or more and ratios in [0, 1]; "
            f"got {number}, {margin:g}, {hard:g} and {drawn:g}."
        )
    differs = ""
    if hard < 1 or drawn > 0:
        differs = (
            f"of more than {number} violators Caffe took a random {int(number * hard)} of the {number} "
            f"hardest and {int(number * drawn)} random others; nearfar takes the {number} hardest "
            "(nearfar.caffe.layers.RankHardLoss draws as Caffe)"
        )
    found = f"RankHardLoss {layer.name!r}, neg_num: {number}, hard_ratio: {hard:g}, rand_ratio: {drawn:g}"
    draft.set(found, "loss", {"name": "rank_hard", "negatives": number}, differs)
    draft.set(f"margin: {margin:g}", "loss", {"margin": plain(margin)})
    draft.say(
        f"pair_size: {given['pair_size']}",
        "-",
        "rows 1 and 2 of a group were the pair; nearfar takes every pair of a class, both ways round",
    )


def _triplet(found: TripletSoftmax, draft: Draft) -> None:
    last = found.loss or found.softmax or found.roots[-1]
    names = " → ".join(["Eltwise", "Reduction", "Power"] + [x.type for x in (found.softmax, found.loss) if x])
    differs = "all triplets of a batch are formed from its labels, not only those of the files"
    if found.loss is None:
        differs += (
            f"; the definition ends at {last.name!r}: the second distance, the softmax and the squared error "
            "behind it are those of the paper"
        )
    draft.set(f"{names} (triplet softmax)", "loss", {"name": "triplet_softmax"}, differs)


def _similarity(graph: Graph, reader: Layer, draft: Draft) -> None:
    """Choose the similarity by whether the embeddings are normalised before they are compared."""
    above = graph.maker(reader.bottoms[0], reader) if reader.bottoms else None
    if above is not None and above.kind in NORMS:
        draft.set(f"{above.type} {above.name!r}", "loss", {"similarity": "cosine"})
        return
    measure = "euclidean" if draft.sections["loss"]["name"] == "triplet_softmax" else "dot"
    if above is None and reader.bottoms:
        found, differs = f"blob {reader.bottoms[0]!r}, from outside of this part", ""
    else:
        found, differs = "no layer that normalises", "; Caffe's had any"
    draft.set(found, "loss", {"similarity": measure}, f"nearfar's embeddings have unit length{differs}")


def _no_loss(graph: Graph) -> str:
    for layer in graph.layers:
        if hint := suggest(layer.type, list(LOSSES)):
            return f"{layer.said}: this type is not known.{hint}"
    place = next((layer.message.source for layer in (*graph.layers, *graph.sources)), "net")
    losses = sorted({layer.type for layer in graph.layers if layer.kind.endswith("loss")})
    has = f"it has {', '.join(losses)}" if losses else "it has none"
    return (
        f"{place}: no loss of this net can be imported ({has}); known are {', '.join(LOSSES)} and the "
        "triplet softmax of Eltwise, Reduction SUMSQ and Power 0.5."
    )
