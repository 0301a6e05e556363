"""Functions by name, whose keyword-only arguments are their settings: what losses and mining rules share."""

import inspect
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from math import isnan
from types import NoneType, UnionType
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

from nearfar.errors import NearfarError, suggest

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Named entries, each behind a function that documents it.

    Attributes:
        kind: what an entry is called in messages, such as "loss" or "mining rule".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        self._functions: dict[str, Callable[..., Any]] = {}

    def add(self, function: Callable[..., Any], entry: Entry) -> None:
        """Add an entry under the name of its function; a name is given once."""
        name = function.__name__
        if name in self._entries:
            raise NearfarError(f"a {self.kind} named {name!r} is registered already; choose another name.")
        self._entries[name], self._functions[name] = entry, function

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise NearfarError(
                f"there is no {self.kind} named {name!r}.{suggest(name, list(self._entries))} "
                f"Known: {', '.join(self.names())}."
            )
        return self._entries[name]

    def names(self, pattern: str = "*") -> list[str]:
        """List the names that match ``pattern`` (shell wildcards), in order."""
        return sorted(name for name in self._entries if fnmatchcase(name, pattern))

    def settings(self, name: str) -> inspect.Signature:
        """Return the keyword-only arguments of an entry's function."""
        self[name]
        signature = inspect.signature(self._functions[name])
        kept = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        return signature.replace(parameters=kept, return_annotation=inspect.Signature.empty)

    def complete(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings of an entry: those given, and defaults for the rest.

        Raises:
            NearfarError: if a setting is unknown or one without default is missing.
        """
        parameters = self.settings(name).parameters
        for key in given:
            if key not in parameters:
                raise NearfarError(
                    f"the {self.kind} {name!r} has no setting {key!r}.{suggest(key, list(parameters))} "
                    f"Its settings: {', '.join(parameters) or 'none'}."
                )
        for key, parameter in parameters.items():
            if parameter.default is parameter.empty and key not in given:
                raise NearfarError(f"the {self.kind} {name!r} needs a value for {key!r}.")
        for key, value in given.items():
            self._check_value(name, key, value, parameters[key].annotation)
        return {key: given.get(key, parameter.default) for key, parameter in parameters.items()}

    def _check_value(self, name: str, key: str, value: Any, annotation: Any) -> None:
        """Refuse a value that is not of the kinds the signature names, or a word that it does not know."""
        kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
        if any(_fits(value, kind) for kind in kinds):
            return
        words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
        wanted = [repr(word) for word in words] + [_kinds[kind] for kind in kinds if kind in _kinds]
        guess = suggest(value, words) if isinstance(value, str) else ""
        raise NearfarError(
            f"{key} of the {self.kind} {name!r} must be {' or '.join(wanted)}; got {value!r}.{guess}"
        )

    def describe(self, name: str) -> str:
        """Return the signature and the whole documentation of an entry."""
        return f"{name}{self.settings(name)}\n\n{inspect.getdoc(self._functions[name])}"


_kinds = {float: "a number", int: "a whole number", bool: "true or false", NoneType: "none", str: "text"}


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not isnan(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind) if kind in _kinds else not isinstance(value, str | bool)
