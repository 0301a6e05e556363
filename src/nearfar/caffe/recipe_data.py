"""The data layers of a Caffe net, and what its embedding is made of, as sections of a recipe."""

from math import degrees

from nearfar.caffe.graph import RANK_HARD, Graph, Layer, NetError
from nearfar.caffe.prototxt import Message
from nearfar.caffe.published import rank_settings
from nearfar.caffe.recipe_loss import NORMS
from nearfar.caffe.table import Draft

_LOOKED_THROUGH = (*NORMS, "relu", "dropout", "batchnorm", "scale", "flatten", "reshape", "slice", "split")


def import_data(graph: Graph, reader: Layer, draft: Draft) -> None:
    """Write the sections [data], [augment] and [batch] and their rows.

    Args:
        graph: of the training phase.
        reader: the layer that first reads the embeddings.
        draft: written to.
    """
    source = next((layer for layer in graph.sources if layer.kind != "input"), None)
    draft.sections["data"] = {"source": "objects"}
    if source is None:
        draft.say("no data layer", 'data.source = "objects", nearfar\'s own batch', "name your own pictures")
        return
    settings = _settings(source)
    listed = settings.text("source", "") if settings.place("source") else ""
    draft.say(
        f"{source.type} {source.name!r}" + (f", source: {listed!r}" if listed else ""),
        'data.source = "objects"',
        "name a folder with a folder for each class, or a table with the columns path and label",
    )
    _batch(source, settings, reader, draft)
    _transforms(graph, source, settings, draft)


def import_model(graph: Graph, reader: Layer, draft: Draft) -> None:
    """Write the section [model]: the network itself is not taken over, the length of its embedding is."""
    count = sum(layer.kind == "convolution" for layer in graph.layers)
    draft.set(
        f"{graph.name or 'the network'}" + (f", Convolution × {count}" if count else ""),
        "model",
        {"backbone": "nearfar/small", "pretrained": False},
        "the network is not taken over; `nearfar models` lists others, such as model.backbone=resnet50 "
        "model.pretrained=true",
    )
    blob = reader.bottoms[0] if reader.bottoms else ""
    layer = graph.maker(blob, reader)
    while layer is not None and layer.kind in _LOOKED_THROUGH and layer.bottoms:
        layer = graph.maker(layer.bottoms[0], layer)
    if layer is None:
        return
    if layer.kind == "innerproduct":
        dim = layer.settings("inner_product_param").whole("num_output", 0)
        draft.set(f"InnerProduct {layer.name!r}, num_output: {dim}", "model", {"dim": dim})
    elif layer.kind == "pooling":
        differs = "embeddings are as long as the features of model.backbone"
        draft.set(f"Pooling {layer.name!r} is the embedding", "model", {"head": "none"}, differs)


def _settings(source: Layer) -> Message:
    """Return the message of a data layer that says where its rows come from."""
    for field in source.message.fields:
        if field.name.endswith("data_param") and isinstance(field.value, Message):
            return field.value
    return Message([])


def _batch(source: Layer, given: Message, reader: Layer, draft: Draft) -> None:
    size = given.whole("batch_size", 0)
    if source.kind == "multibatchdata":
        classes, images = given.whole("identity_num_per_batch", 1), given.whole("img_num_per_identity", 1)
        if classes * images != given.whole("batch_size", 1):
            raise NetError(
                f"{source.said} has batch_size {given.whole('batch_size', 1)}, but identity_num_per_batch × "
                f"img_num_per_identity is {classes * images}; Caffe refuses that. Make them equal."
            )
        draft.set(
            f"identity_num_per_batch: {classes}, img_num_per_identity: {images}",
            "batch",
            {"classes_per_batch": classes, "images_per_class": images},
            "classes and images of a batch are distinct; Caffe drew both with replacement, and classes by "
            "how many images they have, whatever rand_identity said",
        )
        return
    if not size:
        return
    images = 2
    if reader.kind == RANK_HARD:
        images = max(2, rank_settings(reader)["pair_size"])
    draft.set(
        f"batch_size: {size}",
        "batch",
        {"classes_per_batch": max(2, size // images), "images_per_class": images},
        "batches are drawn by class; Caffe took rows in the order of its files",
    )


def _transforms(graph: Graph, source: Layer, settings: Message, draft: Draft) -> None:
    """Write [augment] and the size of the images; a transform that Caffe lacks is switched off."""
    blocks = source.message.messages("transform_param")
    given = blocks[-1] if blocks else settings  # the fields were the data layer's own once
    resized = settings.whole("new_height", 0) or settings.whole("new_width", 0)
    crop = given.whole("crop_size", 0)
    mirror = given.flag("mirror", False)
    draft.set(f"mirror: {str(mirror).lower()}", "augment", {"flip": mirror})
    if size := crop or resized:
        said = f"crop_size: {crop}" if crop else f"new_height: {resized}"
        draft.set(said, "model", {"size": size}, "nearfar/small is made for 32 to 96 px and slow above")
    if size:
        share = round((crop / resized) ** 2, 4) if crop and crop < resized else 1.0
        draft.set(
            f"resized to {resized}, cropped to {crop}" if share < 1 else "nothing else that is random",
            "augment",
            {"scale": [share, share], "ratio": [1.0, 1.0], "brightness": 0, "contrast": 0, "saturation": 0},
            "crops are taken where they fall, as in Caffe; images keep their proportions when resized"
            if share < 1
            else "nearfar's own crops and colours (leave the section out) usually help",
        )
    means = [f"{value:g}" for value in given.numbers("mean_value")]
    said = [f"mean_value: {', '.join(means)}"] if means else []
    said += ["mean_file"] if given.place("mean_file") else []
    said += [f"scale: {given.number('scale', 1.0):g}"] if given.place("scale") else []
    if said:
        draft.say(
            ", ".join(said),
            "the mean and deviation that model.backbone was trained with",
            "images are RGB in [0, 1]; Caffe's are BGR up to 255",
        )
    for layer in graph.layers:
        if layer.kind == "datatransformer":
            _rotation(layer, draft)


def _rotation(layer: Layer, draft: Draft) -> None:
    given = layer.settings("data_transformer_l_param")
    scope = given.number("rotate_angle_scope", 0.0)
    if 0 < degrees(scope) <= 180:
        draft.set(
            f"DataTransformer {layer.name!r}, rotate_angle_scope: {scope:g}",
            "augment",
            {"rotate": round(degrees(scope), 2)},
            "its other changes are left out; see [augment]",
        )
    if given.flag("h_flip", False):
        draft.set("h_flip: true", "augment", {"flip": True})
