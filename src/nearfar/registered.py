"""Functions by name, whose keyword-only arguments are their settings: what losses and mining rules share."""

import inspect
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

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
        return {key: given.get(key, parameter.default) for key, parameter in parameters.items()}

    def describe(self, name: str) -> str:
        """Return the signature and the whole documentation of an entry."""
        return f"{name}{self.settings(name)}\n\n{inspect.getdoc(self._functions[name])}"
