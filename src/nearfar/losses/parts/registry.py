"""Losses by name. The signature of a loss is the only list of its settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import Signature
from typing import Literal, TypeVar, overload

from torch import Tensor

from nearfar.losses.parts.proxies import Proxies
from nearfar.losses.parts.terms import Reduction, Terms
from nearfar.pairs import Pairs
from nearfar.registered import Registry
from nearfar.similarity import Measure

Formula = Callable[..., Tensor | Terms | tuple[Terms, ...]]
Function = TypeVar("Function", bound=Formula)
Needs = Literal["positive", "either", "nothing"]
View = Callable[[Tensor, Measure], tuple[Tensor, Measure]]
"""(embeddings [n, dim], similarity asked for) -> (vectors to compare, measure to compare them with)"""
Table = Literal[False, True, "short", "short_at_once"]
"""How a function takes the positives of a small batch; see ``register_loss``."""
Running = Mapping[str, Tensor]
"""Statistics of the batches so far, each a scalar, by name."""
Update = Callable[[Pairs, Running], Running]
"""(comparisons of a batch, statistics before it) -> statistics with it; in training, without gradient"""


@dataclass(frozen=True)
class LossEntry:
    """A loss function and what its paper says about averaging.

    Attributes:
        function: ``function(pairs, **settings)``, one value (or ``Terms``) per anchor, or several ``Terms``
            that are averaged each for itself and added.
        reduction: the paper's own, used when none is asked for.
        mined: the same for what a mining rule has chosen.
        needs: what an anchor must have for its value to mean something; "nothing" looks at no labels.
        proxies: for a loss whose candidates are learned vectors of the classes instead of the batch.
        learned: settings that the paper learns with the network.
        per_class: whether they may be learned for each class.
        view: what is compared, where it is not the embeddings by the similarity asked for.
        lengths: whether it looks at the lengths of embeddings, whatever the similarity; or the setting that
            is not 0 if it does. Training gives it embeddings before they are brought to unit length.
        separable: whether an anchor's value depends on no other anchor's, so that a batch whose positives are
            too many to list can be taken some anchors at a time.
        running: statistics over the batches that the function takes after ``pairs``, and their start.
        update: how a batch changes them, before the function sees them.
        table: in which table, if any, the function takes positives as well as in a list.
        compiles: whether ``torch.compile`` can take it whole.
    """

    function: Formula
    reduction: Reduction
    mined: Reduction
    needs: Needs
    proxies: Proxies | None
    learned: tuple[str, ...]
    per_class: bool
    view: View | None
    lengths: bool | str
    separable: bool
    running: Mapping[str, float]
    update: Update | None
    table: Table
    compiles: bool

    def __reduce__(self) -> tuple[Callable[..., "LossEntry"], tuple[str, str]]:
        """Pickle and copy by name: another process registers the loss when it imports its module."""
        return registered_in, (self.function.__module__, self.function.__name__)


def registered_in(module: str, name: str) -> LossEntry:
    """Return the entry of a loss, and import what registers it."""
    import_module(module)
    return registry[name]


registry: Registry[LossEntry] = Registry("loss")


@overload
def register_loss(function: Function) -> Function: ...
@overload
def register_loss(
    *,
    reduction: Reduction = ...,
    mined: Reduction | None = ...,
    needs: Needs = ...,
    proxies: Proxies | None = ...,
    learned: tuple[str, ...] = ...,
    per_class: bool = ...,
    view: View | None = ...,
    lengths: bool | str = ...,
    separable: bool = ...,
    running: Mapping[str, float] | None = ...,
    update: Update | None = ...,
    table: Table = ...,
    compiles: bool = ...,
) -> Callable[[Function], Function]: ...
def register_loss(
    function: Function | None = None,
    *,
    reduction: Reduction = "mean",
    mined: Reduction | None = None,
    needs: Needs = "either",
    proxies: Proxies | None = None,
    learned: tuple[str, ...] = (),
    per_class: bool = False,
    view: View | None = None,
    lengths: bool | str = False,
    separable: bool = True,
    running: Mapping[str, float] | None = None,
    update: Update | None = None,
    table: Table = False,
    compiles: bool = True,
) -> Function | Callable[[Function], Function]:
    """Register a loss under the name of its function.

    Args:
        reduction: the paper's own way to average.
        mined: the same for what a mining rule has chosen, where that differs.
        needs: "positive" when an anchor without a positive has nothing to learn, "either" when a positive
            or a negative is enough, "nothing" for a loss of the embeddings alone, whatever their labels.
        proxies: compare with learned vectors of the classes instead of the batch.
        learned: settings that the paper learns with the network: the function gets them as tensors.
        per_class: with classes=…, learn them for each class: the function gets one value for each anchor.
        view: compare something else than the embeddings by the similarity asked for, such as
            ``distances``.
        lengths: True, or the name of the setting that must not be 0, when it looks at the lengths of
            embeddings whatever the similarity, as regularisers do.
        separable: False when an anchor's value depends on other anchors.
        running: statistics over the batches, by name, and what each starts from: the function takes them
            after ``pairs``, in this order, as scalars without gradient.
        update: how a batch changes them in training, before the function sees them.
        table: True when the function reads nothing of ``pairs.positives`` but the similarity, and meets it
            with what ``of_anchor``, ``of_candidate``, ``per_anchor`` and ``stream`` give: the positives of a
            small batch then come as a table [anchor, k], and no shape depends on the labels. "short" asks for
            as few columns as an anchor has positives, for work on each positive with each negative: a device
            is waited for, once. "short_at_once" asks for that only where nobody has to wait.
        compiles: False when shapes depend on numbers, so that ``torch.compile`` leaves the loss as it is.

    Raises:
        NearfarError: if the name is taken.
    """

    def register(function: Function) -> Function:
        registry.add(
            function,
            LossEntry(
                function,
                reduction,
                mined or reduction,
                needs,
                proxies,
                learned,
                per_class,
                view,
                lengths,
                separable,
                running or {},
                update,
                table,
                compiles,
            ),
        )
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


def has_proxies(name: str) -> bool:
    """Say whether a loss learns a vector for each class, and so needs ``classes`` and ``dim``."""
    return registry[name].proxies is not None
