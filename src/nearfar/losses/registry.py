"""Losses by name. The signature of a loss is the only list of its settings."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Signature
from typing import Literal, overload

from torch import Tensor

from nearfar.losses.terms import Reduction, Terms
from nearfar.registered import Registry

Formula = Callable[..., Tensor | Terms]
Needs = Literal["positive", "either"]


@dataclass(frozen=True)
class LossEntry:
    """A loss function and what its paper says about averaging.

    Attributes:
        function: ``function(pairs, **settings)``, one value (or ``Terms``) per anchor.
        reduction: the paper's own, used when none is asked for.
        needs: what an anchor must have for its value to mean something.
        proxies: whether the candidates are learned vectors, one for each class, instead of the batch.
    """

    function: Formula
    reduction: Reduction
    needs: Needs
    proxies: bool


registry: Registry[LossEntry] = Registry("loss")


@overload
def register_loss(function: Formula) -> Formula: ...
@overload
def register_loss(
    *, reduction: Reduction = ..., needs: Needs = ..., proxies: bool = ...
) -> Callable[[Formula], Formula]: ...
def register_loss(
    function: Formula | None = None,
    *,
    reduction: Reduction = "mean",
    needs: Needs = "either",
    proxies: bool = False,
) -> Formula | Callable[[Formula], Formula]:
    """Register a loss under the name of its function.

    Args:
        reduction: the paper's own way to average.
        needs: "positive" when an anchor without a positive has nothing to learn, "either" when a positive
            or a negative is enough.
        proxies: compare with learned vectors, one for each class, instead of the batch.

    Raises:
        NearfarError: if the name is taken.
    """

    def register(function: Formula) -> Formula:
        registry.add(function, LossEntry(function, reduction, needs, proxies))
        return function

    return register if function is None else register(function)


def names(pattern: str = "*") -> list[str]:
    """List the losses whose name matches ``pattern`` (shell wildcards)."""
    return registry.names(pattern)


def describe(name: str) -> str:
    """Return the signature and the whole documentation of a loss."""
    return registry.describe(name)


def settings(name: str) -> Signature:
    """Return the keyword settings of a loss as a signature."""
    return registry.settings(name)
