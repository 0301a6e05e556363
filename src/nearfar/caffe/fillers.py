"""First values of weights, as the fillers of a definition say."""

import math

import torch
from torch import Tensor, nn

from nearfar.caffe.prototxt import Message
from nearfar.errors import suggest

NAMES = ("constant", "uniform", "gaussian", "xavier", "msra")


def check_filler(filler: Message | None) -> None:
    """Raise where a filler is none that nearfar knows.

    Raises:
        PrototxtError: with those there are.
    """
    if filler is not None and (name := filler.text("type", "constant")) not in NAMES:
        hint = suggest(name, list(NAMES)) or f" Known: {', '.join(NAMES)}."
        raise filler.error(f"there is no filler {name!r}.{hint}", filler.place("type"))


def fill(weight: Tensor, filler: Message) -> None:
    """Fill ``weight`` in place; the fan of xavier and msra is counted as Caffe counts it."""
    name = filler.text("type", "constant")
    fan_in, fan_out = weight.numel() / weight.shape[0], weight.numel() / max(1, _second(weight))
    norm = filler.word("variance_norm", ("FAN_IN", "FAN_OUT", "AVERAGE"), "FAN_IN")
    fan = {"FAN_IN": fan_in, "FAN_OUT": fan_out, "AVERAGE": (fan_in + fan_out) / 2}[norm]
    with torch.no_grad():
        match name:
            case "constant":
                nn.init.constant_(weight, filler.number("value", 0.0))
            case "uniform":
                nn.init.uniform_(weight, filler.number("min", 0.0), filler.number("max", 1.0))
            case "gaussian":
                nn.init.normal_(weight, filler.number("mean", 0.0), filler.number("std", 1.0))
            case "xavier":
                nn.init.uniform_(weight, -math.sqrt(3 / fan), math.sqrt(3 / fan))
            case "msra":
                nn.init.normal_(weight, 0.0, math.sqrt(2 / fan))


def _second(weight: Tensor) -> int:
    return weight.shape[1] if weight.ndim > 1 else 1
