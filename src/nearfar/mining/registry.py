"""Mining rules by name. The signature of a rule is the only list of its settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from inspect import Signature
from typing import Any, TypeVar, overload

from nearfar.errors import NearfarError
from nearfar.pairs import Pairs
from nearfar.printable import quoted
from nearfar.registered import Registry
from nearfar.unseen import check_settings

Function = Callable[..., Pairs]
Kind = TypeVar("Kind", bound=Function)
registry: Registry[Function] = Registry("mining rule")
_of_tables: set[Function] = set()


@dataclass(frozen=True)
class Rule:
    """A mining rule with its settings: call it on pairs to narrow them."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def separable(self) -> bool:
        """Whether each anchor is mined by itself; a rule that looks ``over="batch"`` needs all of them."""
        return "batch" not in self.settings.values()

    @property
    def table(self) -> bool:
        """Whether it takes positives in a table as well as in a list."""
        return registry[self.name] in _of_tables

    def __reduce__(self) -> tuple[Callable[..., "Rule"], tuple[str, str, dict[str, Any]]]:
        """Pickle and copy by name: another process registers the rule when it imports its module."""
        return rule_in, (registry[self.name].__module__, self.name, self.settings)

    def __call__(self, pairs: Pairs) -> Pairs:
        return registry[self.name](pairs, **self.settings)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.settings.items())})"


def rule_in(module: str, name: str, settings: dict[str, Any]) -> Rule:
    """Return a rule with its settings, and import what registers it."""
    import_module(module)
    return Rule(name, dict(settings))


@overload
def register_rule(function: Kind) -> Kind: ...
@overload
def register_rule(*, table: bool) -> Callable[[Kind], Kind]: ...
def register_rule(function: Kind | None = None, *, table: bool = False) -> Kind | Callable[[Kind], Kind]:
    """Register a mining rule under the name of its function.

    Args:
        table: True when the rule takes the positives of a small batch as a table; see ``register_loss``.
    """

    def register(function: Kind) -> Kind:
        registry.add(function, function)
        if table:
            _of_tables.add(function)
        return function

    return register if function is None else register(function)


def create(
    mining: str | Mapping[str, Any] | Rule | None, *, shared: Mapping[str, Any] | None = None
) -> Rule | None:
    """Make a rule from its name or from a mapping with its name and settings.

    Args:
        mining: "hard", ``{"name": "semi_hard", "margin": 0.1}``, a rule, or None or "all" for no mining.
        shared: settings of the loss; a rule's setting of the same name takes that value unless given.

    Raises:
        NearfarError: if the rule or a setting is unknown.
    """
    if mining is None or isinstance(mining, Rule):
        return mining
    if isinstance(mining, str):
        mining = {"name": mining}
    if not isinstance(mining, Mapping):
        raise NearfarError(
            f"mining takes a rule's name, a mapping with its settings, or a rule; got {quoted(mining)}."
        )
    if "name" not in mining:
        raise NearfarError(f"mining needs a name, such as {{'name': 'hard'}}; got {quoted(dict(mining))}.")
    name = mining["name"]
    own = {
        key: value
        for key, value in (shared or {}).items()
        if key in registry.settings(name).parameters and value is not None
    }
    given = {key: value for key, value in mining.items() if key != "name"}
    rule = Rule(name, registry.complete(name, {**own, **given}))
    check_settings(registry[name], **rule.settings)
    return None if name == "all" else rule


def names(pattern: str = "*") -> list[str]:
    """List the mining rules whose name matches ``pattern`` (shell wildcards)."""
    return registry.names(pattern)


def describe(name: str) -> str:
    """Return the signature and the whole documentation of a mining rule."""
    return registry.describe(name)


def settings(name: str) -> Signature:
    """Return the keyword settings of a mining rule as a signature."""
    return registry.settings(name)
