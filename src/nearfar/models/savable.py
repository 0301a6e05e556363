"""What ``save`` refuses, since ``load`` could not read it: a model that is no longer as it was made."""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nearfar.errors import CheckpointError

log = logging.getLogger("nearfar")

HELP = {
    r"\.parametrizations\.": "torch.nn.utils.parametrize.remove_parametrizations(part, name)",
    r"_(orig|mask)$": "torch.nn.utils.prune.remove(part, name), or remove_spectral_norm(part) if it has one",
    r"_[gv]$": "torch.nn.utils.remove_weight_norm(part)",
    r"(^|\.)(lora_|base_layer\.|modules_to_save\.|original_module\.|ia3_|hada_|oft_)": (
        "model.merge_and_unload() of the PEFT model, and save what it returns"
    ),
    r"(^|\.)_orig_mod\.": "part.compile(), which compiles in place, instead of torch.compile(part)",
    r"(^|\.)module\.": "the model inside of the wrapper, .module",
}
"""What to call for weights that carry such a name and were not there when the model was made."""

WRAPPER = "_checkpoint_wrapped_module"
"""What activation checkpointing puts in between; the weights keep their names."""


@dataclass(frozen=True)
class Made:
    """What a model consisted of when it was made.

    Attributes:
        weights: the shape of each.
        parts: the class of each.
    """

    weights: Mapping[str, tuple[int, ...]]
    parts: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module) -> "Made":
        """Take down what a model consists of now."""
        return cls(dict(_shapes(model)), dict(_classes(model)))


class Untouched:
    """The weights of a new head, so long as nothing has written to them since it was made.

    Args:
        versions: how often torch says that each was written to; none for a head that is not new.
    """

    def __init__(self, versions: tuple[int, ...]) -> None:
        self.versions, self.told = versions, False

    @classmethod
    def of(cls, head: nn.Module) -> "Untouched":
        """Take down the state of a head that was just made."""
        return cls(_versions(head))

    def tell_if_frozen(self, head: nn.Module) -> None:
        """Say once that a head is frozen and still random: PEFT does that to it unless it is told not to."""
        weights = list(head.parameters())
        if self.told or not weights or any(weight.requires_grad for weight in weights):
            return
        if self.versions and _versions(head) == self.versions:
            self.told = True
            log.warning(
                "the head is frozen and as random as it was made; if it shall learn, call "
                "model.head.requires_grad_(), with PEFT give LoraConfig(..., modules_to_save=['head'])."
            )


def _versions(head: nn.Module) -> tuple[int, ...]:
    # A tensor made in inference mode counts no writes.
    return tuple(-1 if weight.is_inference() else weight._version for weight in head.parameters())


def check_savable(model: nn.Module, made: Made, *, own_parts: bool) -> None:
    """Refuse a model that ``load`` could not make again.

    Args:
        model: to be saved.
        made: what it was when it was made.
        own_parts: whether it may have more than that, as a subclass that adds weights in its ``__init__``.

    Raises:
        CheckpointError: naming the first weight or part that differs, and the call that helps.
    """
    for name, tensor in model.state_dict().items():
        _check_plain(name, tensor)
    now = Made.of(model)
    for name in now.weights:
        if name not in made.weights:
            advice = next((call for pattern, call in HELP.items() if re.search(pattern, name)), None)
            if advice is not None or not own_parts:
                raise CheckpointError(_changed(f"has a weight '{name}' that was not there", advice))
    for name, shape in made.weights.items():
        if name not in now.weights:
            raise CheckpointError(_changed(f"lacks the weight '{name}'", None))
        if now.weights[name] != shape:
            raise CheckpointError(
                _changed(
                    f"has weight '{name}' of shape {list(now.weights[name])}, not {list(shape)} as", None
                )
            )
    for name in dict.fromkeys([*made.parts, *now.parts]):
        before, after = made.parts.get(name), now.parts.get(name)
        if before != after and not (before is None and own_parts):
            raise CheckpointError(
                _changed(f"has {after or 'nothing'} as its part '{name}', not {before or 'nothing'} as", None)
            )


def _changed(what: str, advice: str | None) -> str:
    advice = (
        f"call {advice}" if advice else "undo the change, or make the Embedder anew from the changed module"
    )
    return (
        f"the model {what} when it was made, and load could not make it again; {advice}. Nothing was written."
    )


def _check_plain(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise CheckpointError(
            f"'{name}' of the model is {type(tensor).__name__} and no tensor; a file of weights holds "
            "tensors only. Nothing was written."
        )
    # The state of a model holds detached tensors; parameters and buffers have lost their class there.
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or tensor.layout != torch.strided:
        kind = type(tensor).__name__ if type(tensor) is not Tensor else str(tensor.layout)
        raise CheckpointError(
            f"weight '{name}' is a {kind}; only whole, dense tensors can be saved: gather or convert it "
            "first. Nothing was written."
        )
    if tensor.is_meta:
        raise CheckpointError(
            f"weight '{name}' is on the meta device and has no values. Nothing was written."
        )


def _shapes(model: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, value in model.state_dict().items():
        yield name, tuple(value.shape) if isinstance(value, Tensor) else ()


def _classes(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the class of each part but the model's own; a batch norm is one whatever it is over."""
    for name, part in model.named_modules():
        if name:
            path = ".".join(piece for piece in name.split(".") if piece != WRAPPER)
            yield path, re.sub(r"^Sync(BatchNorm\w*)|\d[dD]$", r"\1", type(part).__name__)
